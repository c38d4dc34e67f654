"""Loops, losses and measures."""
