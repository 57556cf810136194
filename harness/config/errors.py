"""Errors about bad input, and how they name the value."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness import files

NEAR = 0.75  # of difflib's ratio: a slip of the keyboard, not another word
LONGEST_VALUE = 200  # characters of a value that an error shows


class ConfigError(ValueError):
    """Bad input, in one line that names the value, the limit and the way out."""


def label(name: str, value: Any, source: Path | None = None) -> str:
    """The value and where it comes from: an option, or a key of the YAML file `source`."""
    if isinstance(value, list):
        value = ",".join(map(str, value))
    shown = files.shorten(str(value), LONGEST_VALUE)
    return f"{source}: {name}: {shown}" if source else f"--{name.replace('_', '-')} {shown}"


def nearest(name: str, known: Iterable[str]) -> str:
    """The nearest of the known names as a hint, or where they are listed if none is near."""
    plain = {each.lstrip("-"): each for each in known}
    near = difflib.get_close_matches(name.lstrip("-"), plain, 1, cutoff=NEAR)
    return f"the nearest is {plain[near[0]]}" if near else "--help lists the options"


def refuse(problems: list[str]) -> None:
    """Raise ConfigError with all of the problems, if there are any."""
    if problems:
        raise ConfigError("; ".join(problems))
