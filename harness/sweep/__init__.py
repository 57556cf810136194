"""Sweeps: many runs of the main job, each in its own process and run directory, and one table of them all."""

RECORD = "sweep.json"  # makes a directory a sweep's: its points and their outcomes
