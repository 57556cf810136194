"""Runs side by side, cell by cell."""
