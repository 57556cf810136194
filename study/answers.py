"""What the points say to each question, as groups of effects, and how well predictions hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.analysis import pooling, stats
from harness.analysis.effects import Effect, Group
from harness.analysis.stats import Interval, Mean
from study.points import PROCESSES, Point

CALLS, PREFILLS = ("random", "captured"), ("prefill",)  # kinds of points
GPU_BOUND = "GPU-bound"
GRAPHS = "CUDA graphs"
TARGET = 0.05  # how far from 1 measured over predicted may be


def group(points: Iterable[Point], figure: str, kinds: Sequence[str], gap: str | None = None) -> Group:
    """A figure of all points of these kinds, with segments so far apart."""
    chosen = [p for p in points if p.key.kind in kinds and gap in (None, p.key.gap)]
    return Group([Effect(p.key.name, mean, p.floor) for p in chosen if (mean := p.mean(figure))])


def by_step(points: Iterable[Point], figure: str) -> dict[str, Group]:
    """A figure of whole prefills, by what the step waits for, or by the mode of CUDA graphs that cover it."""
    steps: dict[str, list[Point]] = {}
    for point in points:
        if point.key.kind in PREFILLS:
            mode = f"{GRAPHS}: {point.key.mode}" if point.key.mode else ""
            steps.setdefault(mode or point.bound, []).append(point)
    return {step: group(members, figure, PREFILLS) for step, members in sorted(steps.items())}


def calls(points: Iterable[Point], figure: str, version: int, block_size: int) -> Group:
    """A figure of calls without an engine that does not depend on where segments lie: each shape once."""
    shapes = _shapes(points, version, block_size).items()
    return Group([Effect(name, mean, point.floor) for name, point in shapes if (mean := point.mean(figure))])


def larger_blocks(points: Sequence[Point], version: int, small: int, large: int) -> Group:
    """What larger blocks change of a call through the table, process by process, in percent.

    Of the quotient of both calls to one without a table, each in its own series, so that the clock cancels.
    """
    effects, larger = [], _shapes(points, version, large)
    for name, point in _shapes(points, version, small).items():
        other = larger[name].processes if name in larger else {}
        both = [
            (values["paging"], other[seed]["paging"])
            for seed, values in point.processes.items()
            if seed in other
        ]
        if len(both) >= PROCESSES:
            changes = [100 * ((100 + two) / (100 + one) - 1) for one, two in both]
            effects.append(Effect(name, stats.mean(changes)))
    return Group(effects)


def _shapes(points: Iterable[Point], version: int, block_size: int) -> dict[str, Point]:
    """Calls without an engine by their shape and length."""
    kind = ("random", version, block_size)
    found = [p for p in points if (p.key.kind, p.key.version, p.key.block_size) == kind]
    return {f"{p.key.model} at {p.key.length}": p for p in found}


@dataclass(frozen=True)
class Agreement:
    """Measured over predicted, of whole prefills that wait for the GPU."""

    prefills: int
    slope: float
    interval: Interval | None

    @property
    def verdict(self) -> str:
        """Whether it is 1 within TARGET: met, missed, or not decided."""
        low, high = self.interval or (0.0, float("inf"))
        if low >= 1 - TARGET and high <= 1 + TARGET:
            return "met"
        return "missed" if high < 1 - TARGET or low > 1 + TARGET else "not decided"


def agreement(points: Iterable[Point], length: int | None = None) -> Agreement | None:
    """Of the paged KV cache's total cost; a pair a process, each with the error between processes."""
    sides: dict[str, list[Mean]] = {"total ms": [], "predicted total ms": []}
    for point in points:
        if point.key.kind in PREFILLS and point.bound == GPU_BOUND and length in (None, point.key.length):
            means = {name: point.mean(name) for name in sides}
            for name, mean in means.items():
                if mean and all(means.values()):
                    error = mean.error * mean.n**0.5
                    sides[name] += [Mean(value, error, mean.freedom, 1) for value in point.values(name)]
    measured, predicted = sides.values()
    return Agreement(len(measured), *pooling.slope(measured, predicted)) if measured else None
