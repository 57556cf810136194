"""Attention calls run again: placed in memory, made into the arms of a series, checked and sampled."""
