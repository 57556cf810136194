"""Records of made-up runs: what a test says of one, and the rest of what every run has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.runs.schema import RunRecord
from harness.runs.store import RunDirectory

LEAST: dict[str, Any] = {
    "status": "running",
    "config": {},
    "device": {"name": "abacus", "kind": "cpu"},
    "versions": {},
    "model": {"name": "gpt2"},
}


def made(facts: Mapping[str, Any] = {}, **more: Any) -> RunRecord:
    """A record with these keys."""
    return RunRecord.parse(LEAST | dict(facts) | more)


def change(run: RunDirectory, **facts: Any) -> None:
    """Write keys of a run's record anew."""
    run.write_record(RunRecord.parse(run.record().to_json() | facts))
