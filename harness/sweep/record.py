"""sweep.json: the points of a sweep and what became of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from harness.runs.store import raise_damaged, read_json
from harness.runs.stored import Amount, RunStatus, Stored
from harness.sweep import RECORD

PointStatus = Literal["waiting", "running", "finished", "interrupted", "failed"]


class Point(Stored):
    """One run of the main job."""

    name: str = Field(description="its directory")
    options: dict[str, Any] = Field(description="that are not the defaults")
    status: PointStatus = "waiting"
    reason: str | None = Field(default=None, description="why it is not finished")
    seconds: Amount | None = Field(default=None, description="that its process lived")
    host: str | None = Field(default=None, description="the machine's name")


class SweepRecord(Stored):
    """What sweep.json holds."""

    schema_version: Literal[1] = 1
    status: RunStatus
    started: str = Field(description="UTC")
    finished: str | None = Field(default=None, description="UTC")
    resumed: list[str] | None = Field(default=None, description="UTC, each time")
    command: list[str] | None = Field(default=None, description="as typed")
    file: str = Field(description="the sweep's YAML file")
    varies: list[str] = Field(description="the options in which points differ")
    points: list[Point]


def read(directory: Path) -> SweepRecord:
    """A sweep's record; raises FileNotFoundError if there is none, Damaged if it is not a record."""
    path = directory / RECORD
    data = read_json(path)
    with raise_damaged(path):
        return SweepRecord.check(data)
