"""Which arms form a contrast, and each contrast's paired difference."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar, get_args

import numpy as np
import numpy.typing as npt

from harness.analysis import figures, stats
from harness.analysis import other_engines as variants
from harness.analysis.rows import ContrastRow
from harness.runs.record import Cell, Data, Result, Status

T = TypeVar("T")
Layer = (
    int | Literal["mean", "sum"] | None
)  # an index, "mean" or "sum" over the measured layers, or None end to end

#  Baseline and treatment of the in-engine arms; the sweep over spread_k and `compact` are handled separately,
#  as they are not at spread_k = 1.
PREFILL_CONTRASTS = (
    ("paged@1", "placebo"),
    ("dense", "paged@1"),
    ("no_write", "dense"),
    ("engine", "wrapped"),
    ("paged@1", "wrapped"),
    ("spin_0", "spin"),
)
# The same of a cache write that converts K and V; other cache writes are in none.
WRITE_CONTRASTS = (("unconverted", "converted"), ("unconverted", "unconverted again"))


@dataclass(frozen=True)
class Group:
    """One arm of one spread_k on all measured layers: what a row with layer "mean" is made of."""

    results: tuple[Result, ...]  # one per layer, at least one

    @property
    def cell(self) -> Cell:
        """The first layer's cell; the others differ in the layer only."""
        return self.results[0].cell

    @cached_property
    def measured(self) -> tuple[Result, ...]:
        """The ok layers; if there is none, those that have samples nevertheless (throttled, interrupted)."""
        ok = tuple(r for r in self.results if r.status is Status.OK and r.samples_us)
        return ok or tuple(r for r in self.results if r.samples_us)

    @property
    def status(self) -> Status:
        """ok if any layer is, else the first layer's."""
        ok = any(r.status is Status.OK for r in self.results)
        return Status.OK if ok else self.results[0].status

    @property
    def reason(self) -> str | None:
        """The layers' reasons, each once, preceded by the layers in the figures if some are missing."""
        reasons = list(dict.fromkeys(r.reason for r in self.results if r.reason))
        measured = {id(r) for r in self.measured}
        lost = [f"{r.cell.layer} {r.status.value}" for r in self.results if id(r) not in measured]
        if self.measured and lost:
            measured_layers = ", ".join(str(r.cell.layer) for r in self.measured)
            reasons.insert(0, f"layer {measured_layers} only (layer {', layer '.join(lost)})")
        return "; ".join(reasons) or None

    def on_layers(self, layers: Iterable[Layer]) -> Group | None:
        """The same arm on these layers only; None if it was tried on none of them."""
        chosen = set(layers)
        if len(chosen) == 1:
            results = self._by_layer.get(chosen.pop(), [])
        else:
            results = [r for r in self.results if r.cell.layer in chosen]
        return Group(tuple(results)) if results else None

    @cached_property
    def _by_layer(self) -> dict[Layer, list[Result]]:
        by_layer: dict[Layer, list[Result]] = {}
        for result in self.results:
            by_layer.setdefault(result.cell.layer, []).append(result)
        return by_layer


# One spread_k's arms by kernel, name within the series and data. Names are the arms' own, and "paged@1" for
# the one-segment baseline inside the series of a larger spread_k, "paged@1 again" for its A/A repetition, and
# "placebo" for it at another place.
Arms = dict[tuple[str, str, str], Group]


def arms_of(results: Iterable[Result]) -> Arms:
    """The results of one spread_k, layers side by side."""
    layers: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        layers.setdefault((result.cell.kernel, name_in_series(result), result.cell.data), []).append(result)
    return {key: Group(tuple(members)) for key, members in layers.items()}


def spread_of(series: Iterable[Result]) -> int:
    """The series' spread_k: the largest in it, as its baselines are at 1."""
    return max(result.one_segment_for or result.cell.spread_k for result in series)


def series_pairs(results: Sequence[Result]) -> list[tuple[int, int]]:
    """Indices of baseline and treatment of each contrast within one series' results, without captured against
    synthetic, which differ in data, not in an arm.
    """
    if not results:
        return []
    places = {id(result): n for n, result in enumerate(results)}
    if any(result.cell.stage == "variant" for result in results):
        return [(places[id(one)], places[id(two)]) for one, two in variants.pairs(results)]
    if any(result.cell.stage == "end_to_end" for result in results):
        return [(places[id(one)], places[id(two)]) for _, one, _, two in _prefill_pairs(results)]
    spread_k = spread_of(results)
    arms: dict[tuple[str, str], dict[str, int]] = {}
    for n, result in enumerate(results):
        if result.cell.stage == "kernel":
            arms.setdefault((result.cell.kernel, result.cell.data), {})[name_in_series(result)] = n
    complete = [_with_one_segment(spread_k, named) for named in arms.values()]
    pairs = [(named[one], named[two]) for named in complete for one, two in _pairs(spread_k, named)]
    writes = {name_in_series(r): n for n, r in enumerate(results) if r.cell.stage == "cache_write"}
    return pairs + [(writes[one], writes[two]) for one, two in _write_pairs(writes)]


def rounds(results: Sequence[Result]) -> npt.NDArray[np.float64]:
    """The mean over layers in us, round by round, up to the last round that all layers have; empty without
    layers.
    """
    if not results:
        return np.empty(0)
    if len(results) == 1:
        return np.asarray(results[0].samples_us, dtype=np.float64)
    shortest = min(len(r.samples_us) for r in results)
    mean: npt.NDArray[np.float64] = np.mean([r.samples_us[:shortest] for r in results], axis=0)
    return mean


def kernel_contrasts(spread_k: int, arms: Arms) -> list[ContrastRow]:
    """The contrasts of one spread_k, of attention or of cache writes, on each layer, then on the mean and the
    sum over layers.

    A contrast with an arm without samples has no row: the arm's own row says why.
    """
    layers = dict.fromkeys(r.cell.layer for group in arms.values() for r in group.results)
    rows: list[ContrastRow] = []
    for layer in layers:
        single = {key: group.on_layers([layer]) for key, group in arms.items()}
        rows += _of_layer(spread_k, layer, {key: group for key, group in single.items() if group})
    means = _of_layer(spread_k, "mean", arms)
    return rows + [row for mean in means for row in (mean, _sum(mean))]


def prefill_arms(end_to_end: Iterable[Result]) -> dict[str, Result]:
    """The arms of the end-to-end series by name: "paged@1", "paged@8", "paged@1 again" (A/A), "dense", ..."""
    arms = {}
    for result in end_to_end:
        arm = result.cell.arm
        name = f"{arm}@{result.cell.spread_k}" if arm == "paged" else arm
        arms[name + (" again" if result.control else "")] = result
    return arms


def end_to_end_contrasts(results: Sequence[Result]) -> list[ContrastRow]:
    """Contrasts of the prefill at each spread_k with spread_k = 1, of the latter with itself (A/A), and
    between the in-engine arms; `spread_k` is the treatment's.

    The noise floor is the larger of A/A's and the placebo's, the same layout at another place of the pool.
    """
    rows: list[ContrastRow] = []
    for baseline, one, treatment, two in _prefill_pairs(results):
        pair = Group((one,)), Group((two,))
        rows += _contrast(pair, baseline, treatment, two.cell.spread_k, None, one.cell.data)
    return [row.model_copy(update={"noise_floor_pct": _noise_floor_pct(rows)}) for row in rows]


def _prefill_pairs(results: Sequence[Result]) -> list[tuple[str, Result, str, Result]]:
    """Baseline and treatment of each end-to-end contrast, each with its name."""
    named = prefill_arms(results)
    pairs: list[tuple[str, Result | None, str, Result | None]] = []
    one_segment = named.get("paged@1")
    for name, result in named.items():
        if result.cell.arm == "paged" and result is not one_segment:
            pairs.append(("paged@1", one_segment, name if result.control else "paged", result))
    for baseline, treatment in PREFILL_CONTRASTS:
        pairs.append((baseline, named.get(baseline), treatment, named.get(treatment)))
    if compact := named.get("compact"):
        paged = f"paged@{compact.cell.spread_k}"
        baseline = paged if compact.cell.spread_k == 1 else "paged"
        pairs.append((baseline, named.get(paged), "compact", compact))
    return [(a, one, b, two) for a, one, b, two in pairs if one and two and one.series == two.series]


def _of_layer(spread_k: int, layer: Layer, arms: Arms) -> list[ContrastRow]:
    """All contrasts of one layer, with the noise floor of their kernel: A/A or the placebo on the same data,
    whichever is more. A kernel with neither has no noise floor.
    """
    rows: list[ContrastRow] = []
    for kernel in dict.fromkeys(kernel for kernel, _, _ in arms):
        for data in get_args(Data):
            own = {name: group for (k, name, d), group in arms.items() if (k, d) == (kernel, data)}
            named = _with_one_segment(spread_k, own)
            writes = any(group.cell.stage == "cache_write" for group in own.values())
            for baseline, treatment in _write_pairs(own) if writes else _pairs(spread_k, named):
                pair = named[baseline], named[treatment]
                rows += _contrast(pair, baseline, treatment, spread_k, layer, data)
        for arm in ("contiguous", "fragmented", "dense", "paged"):
            synthetic, captured = (arms.get((kernel, arm, data)) for data in ("synthetic", "captured"))
            if synthetic and captured:
                names = f"synthetic {arm}", f"captured {arm}"
                rows += _contrast((synthetic, captured), *names, spread_k, layer, None)
    kernels = {(row.kernel, row.data) for row in rows}
    floors = {key: _noise_floor_pct(row for row in rows if (row.kernel, row.data) == key) for key in kernels}
    return [row.model_copy(update={"noise_floor_pct": floors[row.kernel, row.data]}) for row in rows]


def _noise_floor_pct(rows: Iterable[ContrastRow]) -> float | None:
    """The largest effect that the rows that should show none do not rule out: A/A and the placebo."""
    nulls = [row for row in rows if row.treatment.endswith("again") or row.treatment == "placebo"]
    floors = [floor for row in nulls if (floor := stats.noise_floor_pct(row.ci95_pct)) is not None]
    return max(floors, default=None)


def _sum(mean: ContrastRow) -> ContrastRow:
    """The sum over the mean's layers: its times multiplied by their number; percentages stay."""
    layers = mean.layers or 0
    times = {
        "baseline_us": layers * mean.baseline_us,
        "delta_us": layers * mean.delta_us,
        "ci95_us": stats.map_interval(mean.ci95_us, lambda bound: layers * bound),
    }
    return mean.model_copy(update={"layer": "sum", **times})


def name_in_series(result: Result) -> str:
    """The arm's name within its series; see Arms."""
    if result.cell.arm == "placebo":
        return "placebo"
    if result.cell.arm == "unconverted":
        return "unconverted again" if result.control else "unconverted"
    return result.cell.arm + ("@1 again" if result.control else "@1" if result.one_segment_for else "")


def _with_one_segment(spread_k: int, named: Mapping[str, T]) -> dict[str, T]:
    """One kernel's arms by name; at spread_k = 1 also as their own one-segment baseline."""
    itself = {f"{arm}@1": named[arm] for arm in ("paged", "fragmented") if spread_k == 1 and arm in named}
    return {**named, **itself}


def _write_pairs(names: Collection[str]) -> list[tuple[str, str]]:
    """Baseline and treatment of each contrast between these cache writes."""
    return [pair for pair in WRITE_CONTRASTS if pair[0] in names and pair[1] in names]


def _pairs(spread_k: int, names: Collection[str]) -> list[tuple[str, str]]:
    """Baseline and treatment of each contrast between these arms of one kernel."""
    pairs = [("contiguous", "fragmented"), ("dense", "compact")]
    pairs += [("paged@1", "paged@1 again"), ("paged@1", "placebo")]
    pairs += [("fragmented@1", "fragmented@1 again"), ("fragmented@1", "placebo")]  # of `kernels`
    if spread_k == 1:
        pairs.append(("dense", "paged@1"))
    else:
        pairs += [("dense", "paged"), ("fragmented@1", "fragmented"), ("paged@1", "paged")]
    return [pair for pair in pairs if pair[0] in names and pair[1] in names]


def _contrast(
    pair: tuple[Group, Group], baseline: str, treatment: str, spread_k: int, layer: Layer, data: Data | None
) -> list[ContrastRow]:
    """The contrast's row on the layers that both arms have; none without a pair of samples.

    If an arm's samples are not from an ok cell the figures stand, but the verdict is "unclear".
    """
    common = {r.cell.layer for r in pair[0].measured} & {r.cell.layer for r in pair[1].measured}
    sides = [group.on_layers(common) for group in pair]
    if sides[0] is None or sides[1] is None:
        return []
    samples = [rounds(side.measured) for side in sides if side]
    sound = all(group.status is Status.OK for group in pair)
    return [
        ContrastRow(
            kernel=pair[1].cell.kernel,
            baseline=baseline,
            treatment=treatment,
            spread_k=spread_k,
            layer=layer,
            layers=len(common) if layer == "mean" else None,
            data=data,
            rank=pair[1].cell.rank,
            noise_floor_pct=None,
            clock_mhz=figures.median_clock_mhz(r for side in sides if side for r in side.measured),
            **figures.of_pairs(samples[0], samples[1], sound),
        )
    ]
