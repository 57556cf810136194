"""What made-up runs are made with: samples around a level, a record, a run directory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from harness.runs.record import Cell, Result, Status
from harness.runs.schema import RunRecord
from harness.runs.store import RunDirectory

DATA = Path(__file__).resolve().parents[1] / "data"
TOO_MUCH = "OutOfMemoryError: CUDA out of memory"
OF_CELL = {field.name for field in fields(Cell)}
USUAL = {"spread_k": 1, "block_size": 16, "layer": None, "data": "captured", "series": "end_to_end"}
LEAST: dict[str, Any] = {
    "schema_version": 2,
    "experiment": "prefill",
    "status": "running",
    "config": {},
    "device": {"name": "abacus", "kind": "cpu"},
    "versions": {},
    "model": {"name": "gpt2"},
    "notices": [],
}


def result(stage: str, kernel: str, provider: str, arm: str, **more: Any) -> Result:
    """A result; further fields of its cell and of its own by their names."""
    found: dict[str, Any] = USUAL | {"status": Status.OK} | more
    cell = Cell(stage, kernel, provider, arm, **{name: found.pop(name) for name in OF_CELL & found.keys()})
    return Result(cell, **found)


class Builder:
    """Results as they are added; the same samples on every call."""

    def __init__(self, seed: int, *, noise: float, rounds: int, digits: int = 3, **usual: Any) -> None:
        """Args:
        noise: standard deviation of the samples, as a share of their level.
        rounds: samples of a result, with `warmup` those ahead of them.
        usual: fields that a result has unless another value is given.
        """
        self._rng, self._noise, self._rounds, self._digits = (
            np.random.default_rng(seed),
            noise,
            rounds,
            digits,
        )
        self._warmup = usual.pop("warmup", 0)
        self._usual = usual
        self.results: list[Result] = []

    def factors(self, count: int) -> list[float]:
        """What the next samples are of their level."""
        return [float(x) for x in 1 + self._noise * self._rng.standard_normal(count)]

    def around(self, level_us: float, factors: Iterable[float]) -> list[float]:
        """Samples of a level."""
        return [round(float(level_us * x), self._digits) for x in factors]

    def add(
        self,
        stage: str,
        kernel: str,
        provider: str,
        arm: str,
        level_us: float | None,
        *,
        factors: list[float] | None = None,
        **more: Any,
    ) -> Result:
        """Add a result whose samples are around a level, None: it has none; one that is not ok loses them."""
        samples: dict[str, list[float]] = {}
        if level_us is not None:
            warmup = more.pop("warmup", self._warmup)
            rounds = more.pop("rounds", self._rounds)
            drawn = self.around(level_us, factors or self.factors(warmup + rounds))
            samples = {"samples_us": drawn[warmup:], "warmup_us": drawn[:warmup]}
        found = self._usual | samples | more
        if found.get("status", Status.OK) is not Status.OK:
            found |= {"samples_us": [], "warmup_us": []}
        self.results.append(result(stage, kernel, provider, arm, **found))
        return self.results[-1]


def run_record(facts: Mapping[str, Any] = {}, **more: Any) -> RunRecord:
    """A record with these keys, and what every run has."""
    return RunRecord.parse(LEAST | dict(facts) | more)


def record(facts: Mapping[str, Any] = {}, **more: Any) -> dict[str, Any]:
    """The same as run.json holds it."""
    return run_record(facts, **more).to_json()


def write_run(folder: Path, record: Mapping[str, Any], results: Iterable[Result] = ()) -> RunDirectory:
    """A run's directory; one that is there already is overwritten."""
    run = RunDirectory.create(folder, overwrite=True)
    run.write_record(run_record(record))
    run.append(results)
    return run


def change(run: RunDirectory, **facts: Any) -> None:
    """Write keys of a run's record anew."""
    run.write_record(RunRecord.parse(run.record().to_json() | facts))
