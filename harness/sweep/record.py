"""sweep.json: the points of a sweep and what became of each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from harness.runs.schema import Options
from harness.runs.stored import Amount, RunStatus, Stored, require_readable
from harness.runs.writing import raise_damaged, read_json
from harness.sweep import RECORD

SCHEMA_VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}", re.ASCII)
PointStatus = Literal["waiting", "running", "finished", "interrupted", "failed"]


class Point(Stored):
    """One run of the main job."""

    name: str = Field(description="its directory")
    options: Options = Field(description="that are not the defaults")
    status: PointStatus = "waiting"
    reason: str | None = Field(default=None, description="why it is not finished")
    seconds: Amount | None = Field(default=None, description="that its process lived")
    host: str | None = Field(default=None, description="the machine's name")


def _in_the_sweep(points: list[Point]) -> list[Point]:
    """Points whose names are folders of the sweep, each its own."""
    names = set()
    for point in points:
        if not _NAME.fullmatch(point.name) or point.name in names:
            raise ValueError(f"{point.name!r}: must be the name of a folder in the sweep, each its own")
        names.add(point.name)
    return points


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
    points: Annotated[list[Point], AfterValidator(_in_the_sweep)]


def read(directory: Path) -> SweepRecord:
    """A sweep's record; raises FileNotFoundError if there is none, Damaged if it is not a record."""
    path = directory / RECORD
    data = read_json(path)
    with raise_damaged(path):
        require_readable(data, SCHEMA_VERSION)
        return SweepRecord.check(data)
