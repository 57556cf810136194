"""Replay of attention calls: placed in memory, turned into the arms of a series, checked and sampled."""
