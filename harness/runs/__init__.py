"""A run on disk: what was measured, the directory that keeps it, how it is written and gone on with."""
