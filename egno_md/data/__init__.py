"""Trajectories and labelled frames, and the force fields they come from."""
