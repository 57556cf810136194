"""Many runs of the main job, each in a process and a run directory of its own, and one table of them all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RECORD = "sweep.json"  # what makes a directory a sweep's: its points and what became of them


def read(directory: Path) -> dict[str, Any]:
    """A sweep's record; raises FileNotFoundError if the directory holds none."""
    record: dict[str, Any] = json.loads((directory / RECORD).read_text(encoding="utf-8"))
    return record
