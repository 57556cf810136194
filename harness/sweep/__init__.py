"""Many runs of the main job, each in a process and a run directory of its own, and one table of them all."""
