"""Checks that anybody can run on a potential, a propagator or a published network."""
