"""Whole trajectories: generate, store, judge, export, report."""
