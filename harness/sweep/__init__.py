"""Many runs of the main job, each in a process and a run directory of its own, and one table of them all."""

RECORD = "sweep.json"  # what makes a directory a sweep's: its points and what became of them
