"""Doors into ASE and OpenMM."""
