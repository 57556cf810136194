"""The points' answers to each question: effects with their points, and tallies."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from harness.analysis import stats
from study.points import Effect, Point

ORDER = ("slower", "faster", "same", "below noise", "unclear", "too few rounds", "not measured")
# Two processes of one configuration have differed by this much (docs/method.md): a prefill that waits for the
# GPU, and the paging tax of a kernel.
BETWEEN_PROCESSES_PCT = 4.0
BETWEEN_PROCESSES_POINTS = 1.3
GPU_BOUND, OTHER = "GPU-bound", "host-bound or not known"

ONE_SEGMENT = ("paging", "cache_write")  # components that are measured on one segment of blocks


@dataclass(frozen=True)
class Finding:
    """An effect, at a point, at one of its values of spread_k."""

    point: Point
    spread_k: int
    effect: Effect


Findings = list[Finding]
Key = TypeVar("Key", bound=tuple[Any, ...])


def scrambled_kernels(points: Iterable[Point]) -> Findings:
    """The kernel on each point's most segments, against one; of equal points, the one with the most pairs."""
    best: dict[tuple[object, ...], Finding] = {}
    for p in points:
        k = p.spreads[-1]
        found = Finding(p, k, p.fragmentation(k))
        key = (p.device, p.shape, p.length, p.block_size, p.attention, p.gap, k)
        if k > 1 and (key not in best or found.effect.n > best[key].effect.n):
            best[key] = found
    return list(best.values())


def curves(points: Iterable[Point]) -> list[Point]:
    """One point for each shape, length, block size, kernel and gap: the one with the most values of
    spread_k.
    """
    best: dict[tuple[object, ...], Point] = {}
    for p in points:
        key = (p.shape, p.length, p.block_size, p.attention, p.gap)
        if len(p.spreads) > max(1, len(best[key].spreads) if key in best else 1):
            best[key] = p
    return list(best.values())


def paged_kernels(points: Sequence[Point]) -> Findings:
    """The paging tax, once for each shape, length, block size and kernel, from the point with the most
    pairs.
    """
    best: dict[tuple[object, ...], Finding] = {}
    for point in points:
        found = Finding(point, 1, point.paging())
        key = (point.device, point.shape, point.length, point.block_size, point.attention)
        if key not in best or found.effect.n > best[key].effect.n:
            best[key] = found
    return list(best.values())


def in_prefills(points: Iterable[Point], component: str) -> Findings:
    """A component of the breakdown of every whole prefill."""
    found = []
    for p in points:
        if p.breakdown:
            k = 1 if component in ONE_SEGMENT else p.breakdown["spread_k"]
            if component == "hooks" and p.breakdown["engine_spread_k"]:  # on vLLM's own blocks
                k = p.breakdown["engine_spread_k"]["median"]
            found.append(Finding(p, k, p.in_engine(component)))
    return found


def by_step(prefills: Iterable[Finding]) -> dict[str, Findings]:
    """Whole prefills that wait for the GPU, and the others, in which an arm's cost includes the host's
    work.
    """
    groups: dict[str, Findings] = {GPU_BOUND: []}
    for finding in prefills:
        step = GPU_BOUND if finding.point.bound_by == GPU_BOUND else OTHER
        groups.setdefault(step, []).append(finding)
    return groups


@dataclass(frozen=True)
class Gather:
    """Whether gathering a fragmented cache before attention pays, at a point's most segments."""

    point: Point
    spread_k: int
    gather_us: float | None
    saving_us: float | None  # the kernel through the block table, minus the kernel without
    saving_ci95_us: Sequence[float] | None
    gather_ci95_us: Sequence[float] | None = None  # not in the summaries of the first runs

    @property
    def uses(self) -> float | None:
        """Attention calls on one copy after which it pays; None if a saving is not certain."""
        if self.gather_us is None or not self.saving_us or not self._saves():
            return None
        return self.gather_us / self.saving_us

    @property
    def uses_ci95(self) -> tuple[float, float] | None:
        """From the interval of the saving, and of the gather's time if it is known."""
        if self.uses is None or self.gather_us is None or self.saving_ci95_us is None:
            return None
        least, most = self.gather_ci95_us or (self.gather_us, self.gather_us)
        low, high = self.saving_ci95_us
        return stats.quotient_interval((least, most), (low, high))

    @property
    def pays(self) -> str:
        """After how many uses it pays, as text."""
        if self.gather_us is None or self.saving_ci95_us is None:
            return "not measured"
        if self.saving_ci95_us[1] <= 0:
            return "never: it saves nothing"
        if self.uses_ci95 is None:
            return "unclear: the saving may be zero"
        low, high = self.uses_ci95
        if high <= 1:
            return "on the first use"
        return f"from {math.ceil(high)} uses" if low > 1 else "unclear on the first use"

    def _saves(self) -> bool:
        return self.saving_ci95_us is not None and self.saving_ci95_us[0] > 0


def gathers(points: Sequence[Point]) -> list[Gather]:
    """One for each point of `paged_kernels`."""
    found = []
    for point in (finding.point for finding in paged_kernels(points)):
        k = point.spreads[-1]
        row = point.contrast("dense", "paged" if k > 1 else "paged@1", k) or {}
        copied = point.gather(k)
        times = copied.get("gather_us"), row.get("delta_us"), row.get("ci95_us")
        found.append(Gather(point, k, *times, copied.get("gather_ci95_us")))
    return found


def questions(points: Sequence[Point]) -> dict[str, Findings]:
    """Every question of the study about differences, in the page's order."""
    found = {"scrambling blocks, kernel": scrambled_kernels(points)}
    found |= _of_prefills("scrambling blocks", in_prefills(points, "fragmentation"))
    for (name, size), group in by(paged_kernels(points), kernel_and_block).items():
        found[f"paging, {name} at block size {size}"] = group
    for what, component in (
        ("paging", "paging"),
        ("cache write", "cache_write"),
        ("gathering first", "compact"),
    ):
        found |= _of_prefills(what, in_prefills(points, component))
    return found


def _of_prefills(what: str, prefills: Findings) -> dict[str, Findings]:
    return {f"{what}, whole prefill, {step}": group for step, group in by_step(prefills).items()}


def tally(findings: Iterable[Finding]) -> dict[str, int]:
    """The number of effects by judgement."""
    counts = Counter(finding.effect.judgement for finding in findings)
    return {name: counts[name] for name in ORDER if counts[name]}


def measured(findings: Iterable[Finding]) -> Findings:
    """Those with an interval and a noise floor."""
    return [f for f in findings if f.effect.judgement not in ("not measured", "too few rounds")]


def with_judgement(findings: Iterable[Finding], *judgements: str) -> Findings:
    """Those with these judgements, the largest first."""
    found = [f for f in findings if f.effect.judgement in judgements]
    return sorted(found, key=lambda f: -abs(f.effect.pct or 0.0))


def highest_bound(findings: Iterable[Finding]) -> Finding | None:
    """The finding whose interval reaches highest: an upper bound on every effect, at 95% each."""
    known = [f for f in findings if f.effect.ci95_pct is not None]
    return max(known, key=lambda f: (f.effect.ci95_pct or (0, 0))[1], default=None)


def extremes(findings: Iterable[Finding]) -> tuple[Finding, Finding] | None:
    """The findings with the smallest and the largest difference, among those with an interval."""
    known = sorted((f for f in findings if f.effect.ci95_pct is not None), key=lambda f: f.effect.pct or 0.0)
    return (known[0], known[-1]) if known else None


def scattered(findings: Iterable[Finding]) -> Findings:
    """Those with segments spread over the whole KV cache pool."""
    return [f for f in findings if f.point.gap == "scattered"]


def by(findings: Iterable[Finding], key: Callable[[Point], Key]) -> dict[Key, Findings]:
    """Findings grouped by a key of their points, in the key's order."""
    groups: dict[Key, Findings] = {}
    for finding in findings:
        groups.setdefault(key(finding.point), []).append(finding)
    return dict(sorted(groups.items()))


def kernel_and_block(point: Point) -> tuple[str, int]:
    """A key for `by`."""
    return point.attention.removeprefix("vLLM "), point.block_size


@dataclass(frozen=True)
class BlockSizeChoice:
    """The paging tax at the smallest block size measured and at the recommended one, all else equal."""

    smallest: Finding
    best: Finding

    @property
    def certain(self) -> bool:
        """Whether it costs less than the smallest by more than two processes of one kernel differ."""
        return not are_alike(self.smallest.effect, self.best.effect)


def block_size_choices(findings: Iterable[Finding]) -> dict[str, list[BlockSizeChoice]]:
    """By kernel: the recommended block size for every shape and length with at least two.

    That is the smallest of those that are `are_alike` with the least costly.
    """
    choices: dict[str, list[BlockSizeChoice]] = {}
    known = [f for f in findings if f.effect.ci95_pct is not None]
    for group in by(known, lambda p: (p.attention, p.shape, p.length)).values():
        ordered = sorted(group, key=lambda f: f.point.block_size)
        if len(ordered) > 1:
            least = min(ordered, key=lambda f: f.effect.pct or 0.0)
            best = next(f for f in ordered if are_alike(f.effect, least.effect))
            choices.setdefault(best.point.attention, []).append(BlockSizeChoice(ordered[0], best))
    return choices


def are_alike(one: Effect, other: Effect) -> bool:
    """Whether the intervals of two runs are no further apart than those of one kernel in two processes."""
    (low, high), (lowest, highest) = one.ci95_pct or (0, 0), other.ci95_pct or (0, 0)
    return max(low - highest, lowest - high) <= BETWEEN_PROCESSES_POINTS


@dataclass(frozen=True)
class VersionChoice:
    """The same prefill with two kernels in the engine, in two processes."""

    faster: Point
    slower: Point
    certain: bool  # whether their intervals are further apart than two processes of one configuration


def version_choices(points: Iterable[Point]) -> list[VersionChoice]:
    """The faster kernel for whole prefills that differ only in the kernel and wait for the GPU.

    A host-bound prefill's time depends on the host: gpt2 at 4096 tokens took 8 ms and 14 ms on one within
    minutes.
    """
    found: dict[tuple[str, int, int, str], list[Point]] = {}
    for point in points:
        if point.breakdown and point.breakdown["engine_ci95_ms"] and point.bound_by == GPU_BOUND:
            place = (point.model, point.length, point.block_size, point.gap)
            found.setdefault(place, []).append(point)
    choices = []
    for group in found.values():
        by_kernel = {point.attention: point for point in group}
        if len(by_kernel) == 2:
            fast, slow = sorted(by_kernel.values(), key=lambda p: (p.breakdown or {})["engine_ms"])
            apart = _bounds(slow)[0] / _bounds(fast)[1] - 1
            choices.append(VersionChoice(fast, slow, 100 * apart > BETWEEN_PROCESSES_PCT))
    return choices


def _bounds(point: Point) -> Sequence[float]:
    bounds: Sequence[float] = (point.breakdown or {})["engine_ci95_ms"]
    return bounds


def shared_points(one: Iterable[Point], other: Iterable[Point]) -> list[tuple[Point, Point]]:
    """Pairs of points measured on both devices and sampled alike."""

    def key(p: Point) -> tuple[object, ...]:
        return p.shape, p.length, p.block_size, p.attention, p.model, p.gap, tuple(p.spreads)

    others = {key(point): point for point in other}
    return [(point, others[key(point)]) for point in one if key(point) in others]


def agreeing(pairs: Iterable[tuple[Point, Point]]) -> list[tuple[Point, Point]]:
    """The pairs whose paging taxes are alike."""
    known = [pair for pair in pairs if all(p.paging().ci95_pct is not None for p in pair)]
    return [(one, other) for one, other in known if are_alike(one.paging(), other.paging())]
