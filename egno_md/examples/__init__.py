"""Structures and job files to try: `egno-md run --example NAME`."""
