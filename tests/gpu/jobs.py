"""Jobs on a GPU that other tests use at the same time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# A little of the GPU, and a cache of fixed size: an engine that measures what is free fails when others come
# and go.
LITTLE_MEMORY = ("--gpu-memory-utilization", "0.1", "--kv-cache-memory-bytes", str(2**31))


def harness(*argv: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run `python -m harness` with these arguments; it must end with this exit status."""
    command = [sys.executable, "-m", "harness", *map(str, argv)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout[-2000:] + done.stderr[-3000:]
    return done


def summary_of(directory: Path) -> dict[str, Any]:
    """A run's or a sweep's summary.json."""
    return _read(directory / "summary.json")


def record_of(directory: Path) -> dict[str, Any]:
    """A run's run.json."""
    return _read(directory / "run.json")


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content
