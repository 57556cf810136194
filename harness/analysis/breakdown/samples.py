"""The samples that the breakdown is made of: which arms have samples, round by round, and why others have
none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from harness.analysis import figures, stats
from harness.analysis.contrasts import name_in_series, rounds
from harness.runs.record import Result, Status, in_spread

Array = npt.NDArray[np.float64]

ENGINE_ARMS = ("dense", "paged", "placebo", "compact", "random", "random_unscheduled")


@dataclass(frozen=True)
class Rounds:
    """One figure for each round; none, with a reason, if it could not be computed."""

    values: Array
    reason: str | None = None  # or a remark on the figures
    layers: int | None = None  # number of layers in the figures
    of_layers: Array | None = None  # one figure for each of them, over all rounds
    left_out: stats.Mean | None = None  # the error of the layers that the figures stand for but do not have

    @property
    def mean(self) -> stats.Mean:
        """Over the rounds, of which there must be some."""
        own = stats.mean(self.values)
        return own if self.left_out is None else stats.combine(own.value, [own, self.left_out])

    @property
    def median(self) -> float | None:
        """Over the rounds."""
        return float(np.median(self.values)) if len(self.values) else None


def no_rounds(reason: str) -> Rounds:
    """No figures, and the reason."""
    return Rounds(np.empty(0), reason)


def why_not(result: Result | None, name: str, done: str = "measured") -> str | None:
    """Why an arm has no usable figures; None if it has. Only ok cells count."""
    if result is None:
        return f"{name} was not {done}"
    if result.status is Status.OK:
        return None if result.samples_us else f"{name} has no samples"
    text = f"{name}: {result.status.value}"
    return f"{text}: {result.reason}" if result.reason else text


@dataclass(frozen=True)
class Replayed:
    """The replayed attention calls at one spread_k: layer -> arm's name -> result.

    Names: the engine's kernel by its arms, "dense", "paged", "paged@1", "compact"; "cache_write" and
    "cache_write@1"; "gather_kv", "gather_qkv"; other kernels as "flash_attn_func contiguous". With random
    inputs they begin with "synthetic ".
    """

    layers: dict[int, dict[str, Result]]

    @classmethod
    def of(cls, results: Iterable[Result], spread_k: int) -> Replayed:
        """The results that belong to the series of that spread_k."""
        layers: dict[int, dict[str, Result]] = {}
        for result in results:
            if result.cell.layer is not None and in_spread(result.series, spread_k):
                layers.setdefault(result.cell.layer, {})[_name(result)] = result
        if spread_k == 1:  # the paged arm is the one segment itself
            layers = {n: {**a, "paged@1": a["paged"]} if "paged" in a else a for n, a in layers.items()}
        return cls(dict(sorted(layers.items())))

    def with_any(self, wanted: Callable[[str], bool]) -> Replayed:
        """Only the layers on which an arm whose name satisfies `wanted` was tried."""
        return Replayed({n: arms for n, arms in self.layers.items() if any(map(wanted, arms))})

    def clock_mhz(self) -> float | None:
        """The median SM clock of the attention arms; None: not known."""
        return figures.median_clock_mhz(
            result for arms in self.layers.values() for result in arms.values() if _in_cycles(result)
        )

    def at_clock(self, mhz: float | None) -> Replayed:
        """The same at another SM clock, if both are known.

        Attention takes the same number of cycles at any clock. What only moves data is left as it is: memory
        has a clock of its own.
        """
        if mhz is None:
            return self

        def scale(result: Result) -> Result:
            if not (_in_cycles(result) and result.clock_mhz):
                return result
            factor = float(np.median(result.clock_mhz)) / mhz
            return replace(result, samples_us=[factor * us for us in result.samples_us])

        return Replayed(
            {n: {name: scale(result) for name, result in arms.items()} for n, arms in self.layers.items()}
        )

    def has(self, name: str) -> bool:
        """Whether the arm was tried on any layer."""
        return any(name in arms for arms in self.layers.values())

    def first(self, name: str) -> Result | None:
        """The arm on the first layer on which it was tried."""
        return next((arms[name] for arms in self.layers.values() if name in arms), None)

    def average(self, names: Sequence[str]) -> dict[str, Rounds]:
        """Each arm's mean in us over the layers on which all of them are ok, over the same rounds.

        Layers are averaged round by round, as for rows with layer "mean". `reason` says which layers are left
        out and why, or only why if no layer is left.
        """
        lost = {n: self._objection(n, names) for n in self.layers}
        layers = [n for n, reason in lost.items() if reason is None]
        if not layers:
            reasons = [reason for reason in lost.values() if reason]
            missing = no_rounds(reasons[0] if reasons else f"{names[0]} was not replayed")
            return dict.fromkeys(names, missing)
        lost_layers = (
            "; ".join(f"without layer {n}: {reason}" for n, reason in lost.items() if reason) or None
        )
        means = {name: rounds([self.layers[n][name] for n in layers]) for name in names}
        shortest = min(map(len, means.values()))
        return {name: Rounds(mean[:shortest], lost_layers, len(layers)) for name, mean in means.items()}

    def combine(self, terms: Mapping[str, int]) -> Rounds:
        """The sum of arms with their signs, per layer, in us; see `average`."""
        means = self.average(list(terms))
        first = next(iter(means.values()))
        if not len(first.values):
            return first

        def total(of: Callable[[str], Array]) -> Array:
            summed: Array = np.sum([sign * of(name) for name, sign in terms.items()], axis=0)
            return summed

        layers = [arms for n, arms in self.layers.items() if self._objection(n, list(terms)) is None]
        of_layers = [total(lambda name, arms=arms: np.mean(arms[name].samples_us)) for arms in layers]  # type: ignore[misc]
        values = total(lambda name: means[name].values)
        return Rounds(values, first.reason, first.layers, np.array(of_layers))

    def _objection(self, layer: int, names: Sequence[str]) -> str | None:
        reasons = (why_not(self.layers[layer].get(name), name, "replayed") for name in names)
        return next(filter(None, reasons), None)


def _in_cycles(result: Result) -> bool:
    """Whether its time is a number of cycles of the SM clock."""
    return result.cell.stage == "kernel"


def _name(result: Result) -> str:
    cell, arm = result.cell, name_in_series(result)
    name = f"{cell.kernel} {arm}"
    if cell.stage == "kernel" and cell.arm in ENGINE_ARMS:
        name = arm
    elif cell.stage == "gather":
        name = cell.kernel
    elif cell.stage == "cache_write" and cell.arm == "paged":  # a write that converts is not overridden
        name = arm.replace(cell.arm, "cache_write")
    return name if cell.data == "captured" else f"{cell.data} {name}"
