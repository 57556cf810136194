"""A run on disk: what was measured, its directory, and how it is written and resumed."""
