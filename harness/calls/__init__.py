"""Attention calls: captured in an engine, joined, made without one, saved and loaded."""
