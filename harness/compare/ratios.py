"""Comparing runs: which cells both measured, how their times compare, and what else differs.

Samples of two runs are not paired, so an interval here is a bootstrap of the ratio of two independent
medians. It covers variation within each run, not from process to process; hence a wider tolerance than for
paired contrasts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np

from harness.analysis import stats, verdicts
from harness.analysis.contrasts import Group, rounds
from harness.analysis.verdicts import Judgement
from harness.experiments.views import experiment_of, fitting
from harness.runs.record import Cell, Result, Status
from harness.runs.schema import RunRecord
from harness.runs.store import RunDirectory
from harness.runs.summary import Reason, Verdict

# One kernel's median has differed by 1.3% between two processes on one GPU (docs/method.md).
TOLERANCE_PCT = 2.0
NATURAL = ("engine", "wrapped")  # arms whose blocks vLLM chose: their spread_k is measured, not set
PROBES = ("spin", "spin_0")
# Fields that say how or by which software a cell was measured, not what.
NOT_IDENTITY = ("provider", "block_size", "layer", "data", "point")
# The steps of a generation, which is compared as a whole.
PARTS_OF_A_CELL = ("step",)
COMPARED_KEYS = ("model", "config", "device", "versions", "engine", "engines", "layers", "timer", "prompt")
NO_DIFFERENCE = (
    "config.output_dir",
    "config.overwrite",
    "config.resume",
    "config.tables",
    "config.print_json",
    "config.quiet",
    "config.save_captures",
)

FIELDS = {field.name for field in fields(Cell)}

Key = tuple[tuple[str, Any], ...]
Cells = dict[Key, Group]


@dataclass(frozen=True)
class Run:
    """One of the runs compared."""

    label: str  # A, B, ...
    path: str
    record: RunRecord
    cells: Cells

    @classmethod
    def of(cls, label: str, path: str, record: RunRecord, results: Iterable[Result]) -> Run:
        """A run with what it measured."""
        compared = experiment_of(record).compared
        return cls(label, path, record, cells_of(filter(compared, results)))


@dataclass(frozen=True)
class Difference:
    """A fact of the record in which the runs differ."""

    name: str  # e.g. "versions.vllm"
    values: tuple[Any, ...]  # one per run; None where its record has none


@dataclass(frozen=True)
class Ratio:
    """One cell in two runs: how many times as long the other run took."""

    other: str  # the other run's label
    cell: Mapping[str, Any]  # stage, kernel, arm, spread_k, ...; providers as "A, B" where they differ
    first_ms: float
    other_ms: float
    ratio: float
    ci95: stats.Interval | None  # of the ratio; None below 6 samples
    verdict: Verdict
    reason_code: Reason  # of the verdict
    n: tuple[int, int]  # samples of either
    layers: int | None  # that both have, over which the samples are means; None end to end
    layers_lost: int  # that the first run has and the other lacks


@dataclass(frozen=True)
class Lone:
    """A cell that only one of two runs measured."""

    run: str  # the label of the run that has it
    other: str  # the label of the run that lacks it
    cell: Mapping[str, Any]
    reason: str  # why the other lacks it


@dataclass(frozen=True)
class Comparison:
    """All runs against the first."""

    runs: tuple[Run, ...]
    differences: list[Difference]
    ratios: list[Ratio]
    lone: list[Lone]


def read(paths: Sequence[Path]) -> list[Run]:
    """The runs in these directories, labelled A, B, ...; raises FileNotFoundError if one holds none."""
    runs = []
    for n, path in enumerate(paths):
        directory = RunDirectory.open(path)
        label = ascii_uppercase[n] if n < len(ascii_uppercase) else f"R{n + 1}"
        runs.append(Run.of(label, str(path), directory.record(), directory.results()))
    return runs


def compare(runs: Sequence[Run]) -> Comparison:
    """Each later run against the first, cell by cell.

    Raises ValueError with fewer than two runs, with runs of different experiments, or if the experiment times
    nothing.
    """
    if len(runs) < 2:
        raise ValueError("a comparison needs two runs or more")
    first, *others = runs
    name = first.record.experiment
    for other in others:
        if other.record.experiment != name:
            raise ValueError(f"{other.path}: a run of {other.record.experiment}, not of {name}")
    if not experiment_of(first.record).timed:
        raise ValueError(f"{first.path}: a run of {name} has no times to compare; read their tables.csv")
    ratios: list[Ratio] = []
    lone: list[Lone] = []
    for other in others:
        with fitting(f"{first.path}, {other.path}"):
            for key in _in_order([*first.cells, *other.cells]):
                one, two = first.cells.get(key), other.cells.get(key)
                ratio = _ratio(dict(key), one, two, other.label) if one and two else None
                if ratio:
                    ratios.append(ratio)
                else:
                    lone += _lone(dict(key), (first, other), (one, two))
    return Comparison(tuple(runs), differences([run.record for run in runs]), ratios, lone)


def cells_of(results: Iterable[Result]) -> Cells:
    """A run's cells, grouped over layers; of a cell measured twice, the later."""
    cells: dict[Key, dict[int | None, Result]] = {}
    for result in results:
        cell = result.cell
        baseline = result.one_segment_for is not None or result.control
        if not baseline and cell.arm not in PROBES and cell.stage not in PARTS_OF_A_CELL:
            cells.setdefault(_key(result), {})[cell.layer] = result
    return {key: Group(tuple(layers.values())) for key, layers in cells.items()}


def _key(result: Result) -> Key:
    what = {name: value for name, value in asdict(result.cell).items() if name not in NOT_IDENTITY}
    if result.cell.arm in NATURAL:
        what["spread_k"] = None
    return (*what.items(), *result.cell.point)


def _in_order(keys: Iterable[Key]) -> list[Key]:
    """The distinct keys, whole prefills first, then kernel by kernel."""
    cells = {key: dict(key) for key in keys}
    kernels = list(dict.fromkeys(cell["kernel"] for cell in cells.values()))
    return sorted(
        cells, key=lambda key: (cells[key]["stage"] != "end_to_end", kernels.index(cells[key]["kernel"]))
    )


def _ratio(cell: dict[str, Any], one: Group, two: Group, other: str) -> Ratio | None:
    """The ratio; None unless both have ok samples on a common layer."""
    common = {r.cell.layer for r in _sound(one)} & {r.cell.layer for r in _sound(two)}
    if not common:
        return None
    samples = [rounds([r for r in _sound(side) if r.cell.layer in common]) for side in (one, two)]
    medians = [float(np.median(each)) / 1000 for each in samples]
    interval = stats.ratio_interval(samples[1], samples[0])
    providers = dict.fromkeys(group.cell.provider for group in (one, two))
    judgement = judge(interval)
    return Ratio(
        other=other,
        cell=cell | {"provider": ", ".join(providers)},
        first_ms=medians[0],
        other_ms=medians[1],
        ratio=medians[1] / medians[0],
        ci95=interval,
        verdict=judgement.verdict,
        reason_code=judgement.reason,
        n=(len(samples[0]), len(samples[1])),
        layers=None if None in common else len(common),
        layers_lost=len({r.cell.layer for r in _sound(one)} - common),
    )


def judge(interval: stats.Interval | None) -> Judgement:
    """same: the ratio's interval lies within the tolerance of 1; slower, faster: beyond it; else unclear.

    Unlike in a paired contrast, an interval that excludes 1 but reaches into the tolerance is unclear.
    """
    judgement = verdicts.judge(in_pct(interval), TOLERANCE_PCT)
    if judgement.reason is Reason.EXCLUDES_ZERO:
        return Judgement("unclear", Reason.INTERVAL_TOO_WIDE)
    return judgement


def in_pct(interval: stats.Interval | None) -> stats.Interval | None:
    """A ratio's interval as a difference in percent."""
    return stats.map_interval(interval, lambda bound: 100 * (bound - 1))


def _sound(group: Group) -> list[Result]:
    return [r for r in group.results if r.status is Status.OK and r.samples_us]


def _lone(
    cell: dict[str, Any], runs: tuple[Run, Run], sides: tuple[Group | None, Group | None]
) -> list[Lone]:
    """A cell without a ratio, and why; nothing if neither run measured it."""
    has = [bool(side and _sound(side)) for side in sides]
    if not any(has):
        return []
    if all(has):
        return [Lone(runs[0].label, runs[1].label, cell, "measured on other layers")]
    holder, lacking = (0, 1) if has[0] else (1, 0)
    missing = sides[lacking]
    reason = f"{missing.status.value}: {missing.reason}" if missing else "not tried"
    return [Lone(runs[holder].label, runs[lacking].label, cell, reason)]


def differences(records: Sequence[RunRecord]) -> list[Difference]:
    """Where the records differ in model, configuration, device and software, the model first."""
    flat = [
        _flat({part: known.get(part) for part in COMPARED_KEYS}) for known in map(RunRecord.to_json, records)
    ]
    names = sorted(dict.fromkeys(name for facts in flat for name in facts), key=_place)
    facts_by_name = [Difference(name, tuple(facts.get(name) for facts in flat)) for name in names]
    return [
        each
        for each in facts_by_name
        if each.name not in NO_DIFFERENCE and len(set(map(repr, each.values))) > 1
    ]


def _place(name: str) -> int:
    return COMPARED_KEYS.index(name.partition(".")[0])


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def arm(cell: Mapping[str, Any]) -> str:
    """The cell's name within its kernel, e.g. "paged 16"; of whole prefills only the sweep's have a
    spread_k.
    """
    k = cell["spread_k"]
    swept = k and (cell["stage"] != "end_to_end" or cell["arm"] == "paged")
    more = [f"{name} {cell[name]}" for name in ("variant", "rank", "request") if cell[name] is not None]
    return ", ".join([arm_name(cell) + (f" {k}" if swept else ""), *more, *axes(cell)])


def arm_name(cell: Mapping[str, Any]) -> str:
    """The arm's name for a reader; attention backends stay in capitals."""
    name: str = cell["arm"]
    return name if name.isupper() else name.replace("_", " ")


def axes(cell: Mapping[str, Any]) -> list[str]:
    """A cell's place on its experiment's axes, e.g. "batch 4" on the axis "batch_size"."""
    return [f"{name.partition('_')[0]} {value}" for name, value in own_axes(cell).items()]


def own_axes(cell: Mapping[str, Any]) -> dict[str, Any]:
    """A cell's values on the axes that only its experiment has."""
    return {name: value for name, value in cell.items() if name not in FIELDS}
