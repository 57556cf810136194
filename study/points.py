"""What was measured: a point is one configuration, with the figures of each of its processes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chores import pack
from harness.analysis import stats
from harness.analysis.stats import Mean
from harness.experiments import views
from harness.experiments.prefill.rows import PrefillSummary
from harness.runs.record import Result
from harness.runs.schema import RunRecord
from harness.sweep import plan
from study import figures, kernels
from study.figures import Figures

PROCESSES = 5  # the fewest that a figure may rest on
VLLM, DEVICE = "0.33.0", "NVIDIA H200"  # that the page is about


@dataclass(frozen=True, order=True)
class Key:
    """Identifies a point."""

    model: str
    length: int
    version: int  # of FlashAttention; 0: another kernel
    block_size: int
    gap: str
    kind: str  # "prefill"; "captured", its attention calls replayed; "random", calls without an engine
    mode: str = (
        ""  # of CUDA graphs that cover the step, e.g. "PIECEWISE"; "": as vLLM has them, for 512 tokens
    )

    @property
    def name(self) -> str:
        """As a table's row begins."""
        unusual = [self.gap if self.gap == "scattered" else "", self.mode and f"CUDA graphs: {self.mode}"]
        parts = [f"{self.model} at {self.length}", f"FA{self.version}", f"blocks of {self.block_size}"]
        return ", ".join(filter(None, [*parts, *unusual]))

    @classmethod
    def of(cls, options: Mapping[str, Any], kind: str, version: int, model: str = "") -> Key:
        """A point with these options of a configuration or a sweep."""
        model = model or Path(options["model"]).name
        gap = options.get("gap", "shuffled")
        mode = options.get("cudagraph_mode") or ("EAGER" if options.get("enforce_eager") else "")
        return cls(model, options["length"], version, options["block_size"], gap, kind, mode)


@dataclass
class Point:
    """One configuration's figures."""

    key: Key
    processes: dict[int, Figures] = field(default_factory=dict)  # by seed
    bounds: set[str] = field(default_factory=set)  # what the steps of its processes wait for

    def values(self, name: str) -> list[float]:
        """A figure's values, a process each; [] if it was not measured."""
        return [values[name] for values in self.processes.values() if name in values]

    def mean(self, name: str) -> Mean | None:
        """A figure's mean, whose interval holds what differs between processes; None of too few."""
        values = self.values(name)
        return stats.mean(values) if len(values) >= PROCESSES else None

    @property
    def floor(self) -> float:
        """The largest effect in percent that A/A and the placebo, over processes, do not rule out."""
        nulls = [mean.interval() for name in ("A/A", "placebo") if (mean := self.mean(name))]
        return max((abs(end) for null in nulls for end in null), default=0.0)

    @property
    def bound(self) -> str:
        """What the step waits for; where processes disagree, all that was found."""
        return " or ".join(sorted(self.bounds))


@dataclass(frozen=True)
class Data:
    """What the page is made of."""

    points: Sequence[Point]
    unused: Mapping[str, Iterable[str]]  # archives that may not be quoted, by why
    missing: Sequence[Key]  # planned points with too few processes

    @property
    def quoted(self) -> list[Point]:
        """Those with enough processes; of two with one key, which differ in another option, the one with
        more.
        """
        enough = [point for point in self.points if len(point.processes) >= PROCESSES]
        by_key = {point.key: point for point in sorted(enough, key=lambda point: len(point.processes))}
        return [by_key[key] for key in sorted(by_key)]


def read(folder: Path, plans: Path) -> Data:
    """The points of all archives in a folder; missing are those of the sweeps in another, and of CALLS."""
    points: dict[tuple[Key, str], Point] = {}
    unused: dict[str, set[str]] = {}
    for archive in sorted(folder.glob("*.tar.xz")):
        for record, results in pack.read(archive):
            if record.experiment not in ("prefill", "kernels"):
                continue
            if reason := _why_not(record):
                unused.setdefault(reason, set()).add(archive.name.removesuffix(".tar.xz"))
                continue
            seed, settings = record.config["seed"], _settings(record)
            for key, values, bound in _measured(record, results):
                point = points.setdefault((key, settings), Point(key))
                if seed in point.processes:
                    raise ValueError(f"{archive.name}: seed {seed} of {key.name} is there twice")
                point.processes[seed] = values
                point.bounds |= {bound} if bound else set()
    whole = {point.key for point in points.values() if len(point.processes) >= PROCESSES}
    missing = [key for key in planned(plans) if key not in whole]
    return Data([points[place] for place in sorted(points)], unused, missing)


def _why_not(record: RunRecord) -> str | None:
    """Why a run is not on the page; None if it is."""
    if reason := pack.objection(record):
        return reason.partition(";")[0]
    vllm, device, config = record.versions.get("vllm"), record.device.name, record.config
    if (vllm, device) != (VLLM, DEVICE):
        return f"measured with vLLM {vllm} on {device}"
    several = (
        config.get("batch") or max(config.get(of, 1) for of in ("batch_size", "tensor_parallel_size")) > 1
    )
    partly = config.get("seq_len_q") not in (None, config.get("length")) or not config.get("causal", True)
    if (
        several
        or partly
        or config.get("from_captures")
        or max(record.spread_k or [0]) != -(-config["length"] // config["block_size"])
    ):
        return "another question than the page's: not one whole causal prompt, in as many segments as blocks"
    return None


def _settings(record: RunRecord) -> str:
    """What processes of one point have in common."""
    own = ("seed", "output_dir", "overwrite", "resume", "quiet")
    return json.dumps(
        {name: value for name, value in record.config.items() if name not in own}, sort_keys=True
    )


def planned(plans: Path) -> list[Key]:
    """Every point that a complete study has."""
    options = [point.options for file in sorted(plans.glob("*.yaml")) for point in plan.read(file).points]
    keys = [Key.of(each, "prefill", each["flash_attn_version"]) for each in options]
    for call in kernels.CALLS:
        keys += [Key.of(call, "random", version, call["shape"]) for version in kernels.VERSIONS]
    return list(dict.fromkeys(keys))


def _measured(record: RunRecord, results: Sequence[Result]) -> Iterable[tuple[Key, Figures, str | None]]:
    """A run's points: its key, its figures, and what its step waits for."""
    config = record.config
    if record.experiment == "kernels":
        shape = kernels.shape_of(config)
        for version, values in figures.of_calls(results).items():
            yield Key.of(config, "random", version, shape), values, None
        return
    summary = views.summarise(record, results)
    assert isinstance(summary, PrefillSummary)
    version = (record.engine and record.engine.flash_attn_version) or config.get("flash_attn_version") or 0
    key = Key.of(config, "prefill", version)
    for other, values in figures.of_graphs(summary).items():
        yield replace(key, mode=other), values, None
    if found := summary.attribution:
        yield key, figures.of_prefill(found), found.host_bound.verdict
    if values := figures.of_captured(summary):
        yield replace(key, kind="captured"), values, None
