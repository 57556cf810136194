"""Many runs of the main job, each in a process and a run directory of its own, and one table of them all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.runs.store import read_json

RECORD = "sweep.json"  # what makes a directory a sweep's: its points and what became of them


def read(directory: Path) -> dict[str, Any]:
    """A sweep's record; raises FileNotFoundError if the directory holds none, Damaged if it is no record."""
    return read_json(directory / RECORD)
