"""Errors about bad input, and how they name the value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import files

LONGEST_VALUE = 200  # characters of a value that an error shows


class ConfigError(ValueError):
    """Bad input, in one line that names the value, the limit and the way out."""


def label(name: str, value: Any, source: Path | None = None) -> str:
    """The value and where it comes from: an option, or a key of the YAML file `source`."""
    if isinstance(value, list):
        value = ",".join(map(str, value))
    shown = files.shorten(str(value), LONGEST_VALUE)
    return f"{source}: {name}: {shown}" if source else f"--{name.replace('_', '-')} {shown}"


def refuse(problems: list[str]) -> None:
    """Raise ConfigError with all of the problems, if there are any."""
    if problems:
        raise ConfigError("; ".join(problems))
