"""How numbers of things are written."""

from __future__ import annotations


def counted(number: float, noun: str) -> str:
    """A count with its noun, which takes an s where it is not one: "1 token", "4096 tokens", "1.5 runs"."""
    return f"{number:.12g} {noun}" + ("" if number == 1 else "s")
