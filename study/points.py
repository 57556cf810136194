"""What the study's data holds: a point is one run, an effect one of its differences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.analysis.breakdown.host import judge
from harness.experiments.prefill.rows import PrefillSummary
from harness.runs.schema import upgrade

Row = dict[str, Any]

GATHERED = ("flash_attn_func", "fragmented")  # kernel and arm of the row that has the gather of K and V
ONE_LAYER = "-1-layer"  # suffix of the models on which only a kernel is measured


@dataclass(frozen=True)
class Effect:
    """A difference in percent of its baseline, with the noise floor."""

    pct: float | None = None
    ci95_pct: Sequence[float] | None = None
    floor_pct: float | None = None  # A/A of the same series
    n: int = 0  # pairs
    tolerance_pct: float = 0.5
    reason: str | None = None  # why it was not measured

    @property
    def judgement(self) -> str:
        """The study's judgement.

        same: the interval lies within the tolerance. slower, faster: it lies beyond the noise floor.
        below noise: neither, and the figure itself is no larger than the floor. unclear: neither, and it is.
        """
        if self.pct is None:
            return "not measured"
        if self.ci95_pct is None or self.floor_pct is None:
            return "too few rounds"
        low, high = self.ci95_pct
        if -self.tolerance_pct <= low and high <= self.tolerance_pct:
            return "same"
        if low > self.floor_pct:
            return "slower"
        if high < -self.floor_pct:
            return "faster"
        return "below noise" if abs(self.pct) <= self.floor_pct else "unclear"


@dataclass(frozen=True)
class Point:
    """One run, from its files in the study's data."""

    record: Row
    summary: Row  # empty if the run failed

    @property
    def device(self) -> str:
        """The device's name."""
        return str(self.record["device"]["name"])

    @property
    def model(self) -> str:
        """The name given, e.g. llama-3-8b-1-layer."""
        return Path(self.record["config"].get("model", self.record["model"]["name"])).name

    @property
    def shape(self) -> str:
        """The model whose attention it has, with all layers or one."""
        return self.model.removesuffix(ONE_LAYER)

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return int(self.record["config"]["length"])

    @property
    def block_size(self) -> int:
        """Tokens per block."""
        return int(self.record["config"]["block_size"])

    @property
    def gap(self) -> str:
        """How far apart segments of blocks lie."""
        return str(self.record["config"].get("gap", "shuffled"))

    @cached_property
    def attention(self) -> str:
        """The engine's attention kernel, e.g. "vLLM FA3"."""
        return next((r["provider"] for r in self.summary["kernels"] if r["arm"] == "dense"), "unknown")

    @property
    def breakdown(self) -> Row | None:
        """The breakdown of the whole prefill; None for a kernel alone."""
        found: Row | None = self.summary["attribution"]
        return None if self.model.endswith(ONE_LAYER) else found

    @property
    def bound_by(self) -> str | None:
        """What the step waits for, judged anew from the run's figures."""
        found = (self.breakdown or {}).get("host_bound")
        if found is None:
            return None
        if found["verdict"] == "not applicable":  # on a CPU
            return "not applicable"
        return judge(found["gpu_busy_pct"], found["ci95_pct"])

    @property
    def spreads(self) -> list[int]:
        """The values of spread_k, ascending."""
        return sorted(self.record["spread_k"])

    def kernel(self, arm: str, spread_k: int, stage: str = "kernel") -> Row | None:
        """The row of one of the engine's arms, mean over the layers."""
        wanted = {"arm": arm, "spread_k": spread_k, "stage": stage}
        return next((r for r in self.summary["kernels"] if wanted.items() <= r.items()), None)

    def gather(self, spread_k: int) -> Row:
        """The row with `gather_us` of K and V, mean over the layers, and in newer runs its interval."""
        wanted = {"kernel": GATHERED[0], "arm": GATHERED[1], "spread_k": spread_k}
        return next((r for r in self.summary["kernels"] if wanted.items() <= r.items()), {})

    def contrast(self, baseline: str, treatment: str, spread_k: int) -> Row | None:
        """A row of the engine's kernel's contrasts; None if one of the arms was not measured."""
        wanted = {"baseline": baseline, "treatment": treatment, "spread_k": spread_k}
        rows = (r for r in self.summary["contrasts"] if r["kernel"] != "prefill")
        return next((r for r in rows if wanted.items() <= r.items()), None)

    def paging(self) -> Effect:
        """The kernel on one segment of blocks against the kernel without a block table."""
        return self._effect(self.contrast("dense", "paged@1", 1), "paged", 1)

    def fragmentation(self, spread_k: int) -> Effect:
        """The same kernel on `spread_k` segments against one."""
        return self._effect(self.contrast("paged@1", "paged", spread_k), "paged", spread_k)

    def in_engine(self, component: str) -> Effect:
        """A component of the whole prefill's breakdown, in percent of the engine's own."""
        if not self.breakdown:
            return Effect(reason="no breakdown")
        row = next((r for r in self.breakdown["measured"] if r["component"] == component), None)
        if row is None or row["pct"] is None:
            return Effect(reason=(row or {}).get("reason") or f"{component} was not tried")
        floor = self.breakdown["noise_floor_pct"]
        return Effect(row["pct"], row["ci95_pct"], floor, row["n"], self.summary["tolerance_pct"])

    def _effect(self, row: Row | None, arm: str, spread_k: int) -> Effect:
        if row is None:
            cell = self.kernel(arm, spread_k) or {}
            texts = [cell[key] for key in ("status", "reason") if cell.get(key)]
            return Effect(reason=": ".join(texts) or "not tried")
        tolerance = self.summary["tolerance_pct"]
        return Effect(row["delta_pct"], row["ci95_pct"], row["noise_floor_pct"], row["n"], tolerance)


def read_record(file: Path) -> Row:
    """Read a run.json, or what the study keeps of one, with the keys of this version."""
    record: Row = json.loads(file.read_text(encoding="utf-8"))
    return upgrade(record, record.get("schema_version", 1))


def read_summary(file: Path) -> Row:
    """Read a summary.json of the main job, or what the study keeps of one, with the keys of this version."""
    summary: Row = json.loads(file.read_text(encoding="utf-8"))
    return PrefillSummary.upgrade(summary, summary.get("schema_version", 1))


def read(data: Path) -> tuple[list[Point], list[Point]]:
    """Read a data directory: its points in a fixed order, and those whose run failed."""
    points, failures = [], []
    for file in sorted(data.glob("*/*/run.json")):
        record = read_record(file)
        summary_path = file.with_name("summary.json")
        if summary_path.is_file():
            points.append(Point(record, read_summary(summary_path)))
        else:
            failures.append(Point(record, {}))
    points.sort(key=lambda p: (p.device, p.shape, p.length, p.block_size, p.attention, p.model, p.gap))
    return points, failures
