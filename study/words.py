"""Formatting of the page's figures, points and tables. Every figure comes with its interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from tabulate import tabulate

from harness.report.tables import NONE, interval_of
from harness.report.tables import percent as percent_of
from study.findings import GPU_BOUND, Finding, Gather, extremes, questions, tally
from study.points import Effect, Point

EMPTY = "Nothing of this was measured."  # instead of a table without rows
_GROUPS = ("scrambling", "paging", "cache", "gathering")  # first words of the questions, in order


def where(point: Point) -> str:
    """A point, for use in a sentence."""
    gap = f", {point.gap}" if point.gap != "shuffled" else ""
    return f"{point.shape} at {point.length} tokens, block size {point.block_size}, {kernel(point)}{gap}"


def kernel(point: Point) -> str:
    """The attention kernel, without vLLM's name."""
    return point.attention.removeprefix("vLLM ")


def percent(effect: Effect) -> str:
    """The difference with its interval."""
    return NONE if effect.pct is None else percent_of(effect.pct, effect.ci95_pct)


def floor(effect: Effect) -> str:
    """The noise floor."""
    return NONE if effect.floor_pct is None else f"{effect.floor_pct:.2f}%"


def judgement(effect: Effect) -> str:
    """The judgement, with the reason if nothing was measured."""
    return effect.judgement + (f" ({effect.reason})" if effect.reason else "")


def format_tally(counts: Mapping[str, int]) -> str:
    """A tally as text, e.g. "3 same, 1 slower"."""
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def microseconds(value: float | None, bounds: Sequence[float] | None = None, sign: bool = False) -> str:
    """A time in us."""
    return interval_of(value, bounds, 1, sign)


def engine(point: Point) -> str:
    """The engine's own prefill in ms."""
    breakdown = point.breakdown
    if not breakdown or breakdown["engine_ms"] is None:
        return NONE
    return interval_of(breakdown["engine_ms"], breakdown["engine_ci95_ms"], 2, sign=False)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A markdown table; the first column left-aligned, the others right-aligned."""
    listed = [list(map(str, row)) for row in rows]
    if not listed:
        return EMPTY
    align = ("left", *["right"] * (len(columns) - 1))
    return tabulate(listed, headers=columns, tablefmt="pipe", disable_numparse=True, colalign=align)


def in_short(points: Mapping[str, Sequence[Point]]) -> str:
    """A row for each question, a column for each device."""
    asked = {name: questions(mine) for name, mine in points.items()}
    rows: dict[str, list[str]] = {what: [] for found in asked.values() for what in found}
    order = sorted(rows, key=lambda what: (_GROUPS.index(what.split()[0].rstrip(",")), "whole" in what))
    for found in asked.values():
        for what in rows:
            rows[what].append(_brief(found.get(what, [])))
    return table(["", *asked], [[what, *rows[what]] for what in order])


def _brief(findings: Sequence[Finding]) -> str:
    if not findings:
        return "not measured"
    ends = extremes(findings)
    range_ = " to ".join(dict.fromkeys(percent(f.effect) for f in ends)) if ends else "no interval"
    return f"{range_}<br>{format_tally(tally(findings))}"


def kernels_table(findings: Iterable[Finding], what: str, with_segments: bool) -> str:
    """Effects on the kernel alone, one per row."""
    columns = ["shape", "tokens", "block", "kernel", *(["segments"] if with_segments else []), "us a call"]
    rows: list[list[str]] = []
    for f in findings:
        arm = f.point.kernel("paged" if with_segments else "dense", 1)
        base = microseconds(arm["median_us"] if arm else None)
        segments = [_segments(f)] if with_segments else []
        rows.append([*_place(f.point), *segments, base, *_effect(f.effect)])
    return table([*columns, f"{what} [95%]", "noise floor", "finding", "pairs"], rows)


def prefills_table(findings: Iterable[Finding], what: str) -> str:
    """Effects on whole prefills, one per row."""
    columns = ["model", "tokens", "block", "kernel", "segments", "engine ms [95%]", f"{what} [95%]"]
    rows = [
        [*_place(f.point), _segments(f), engine(f.point), *_effect(f.effect), f.point.bound_by or NONE]
        for f in findings
    ]
    return table([*columns, "noise floor", "finding", "pairs", "step"], rows)


def cache_writes_table(points: Iterable[Point]) -> str:
    """The time to write one layer's K and V, beside that layer's attention without a block table."""
    columns = ["shape", "tokens", "block", "kernel", "cache write, us [95%]", "attention, us [95%]"]
    rows = []
    for point in points:
        cells = [point.kernel("paged", 1, "cache_write"), point.kernel("dense", 1)]
        times = [microseconds(cell["median_us"], cell["ci95_us"]) if cell else NONE for cell in cells]
        rows.append([*_place(point), *times])
    return table(columns, rows)


def warnings_table(points: Iterable[Point]) -> str:
    """The warnings about the engine's own prefill in runs of whole prefills."""
    rows = []
    for point in points:
        arms = point.summary["end_to_end"] if point.breakdown else ()
        warnings = [text for row in arms if row["arm"] == "engine" for text in row["warnings"]]
        if warnings:
            rows.append([*_place(point), "; ".join(warnings)])
    return table(["model", "tokens", "block", "kernel", "of the engine's own samples"], rows)


def shapes_table(points: Iterable[Point]) -> str:
    """The models measured."""
    rows = {}
    for m in (point.record["model"] | {"name": point.model} for point in points):
        heads = f"{m['num_heads']}/{m['num_kv_heads']} x {m['head_dim']}"
        rows[m["name"]] = [m["name"], m["num_layers"], heads, m["dtype"], m["weights"]]
    return table(["model", "layers", "heads, query/KV x size", "dtype", "weights"], sorted(rows.values()))


def gathers_table(gathers: Iterable[Gather]) -> str:
    """What a gather costs, what it saves, and after how many uses it pays."""
    columns = ["shape", "tokens", "block", "kernel", "gather us", "saves us [95%]", "uses [95%]", "pays"]
    rows = [
        [
            *_place(g.point),
            microseconds(g.gather_us),
            microseconds(g.saving_us, g.saving_ci95_us, sign=True),
            interval_of(g.uses, g.uses_ci95, 2, sign=False),
            g.pays,
        ]
        for g in gathers
    ]
    return table(columns, rows)


def block_sizes_table(findings: Sequence[Finding]) -> str:
    """The paging tax with a column for each block size."""
    sizes = sorted({f.point.block_size for f in findings})
    rows: dict[tuple[str, int, str], dict[int, str]] = {}
    for f in findings:
        mark = {"below noise": " (below noise)", "unclear": " (unclear)"}.get(f.effect.judgement, "")
        place = (f.point.shape, f.point.length, kernel(f.point))
        rows.setdefault(place, {})[f.point.block_size] = percent(f.effect) + mark
    listed = [[*place, *(cells.get(size, NONE) for size in sizes)] for place, cells in sorted(rows.items())]
    return table(["shape", "tokens", "kernel", *(f"block {size}" for size in sizes)], listed)


def devices_table(pairs: Iterable[tuple[Point, Point]], names: Sequence[str]) -> str:
    """Two devices compared: the kernel's paging tax and fragmentation, a GPU-bound prefill's ms."""
    columns = ["model", "tokens", "block", "kernel"]
    for what in ("paging tax", "fragmentation", "engine ms"):
        columns += [f"{what}, {name}" for name in names]
    rows = []
    for pair in pairs:
        cells = [percent(p.paging()) for p in pair]
        cells += [percent(p.fragmentation(p.spreads[-1])) for p in pair] + [
            engine(p) if p.bound_by == GPU_BOUND else NONE for p in pair
        ]
        rows.append([pair[0].model, *_place(pair[0])[1:], *cells])
    return table(columns, rows)


def _place(point: Point) -> list[str]:
    return [point.shape, str(point.length), str(point.block_size), kernel(point)]


def _segments(f: Finding) -> str:
    return str(f.spread_k) + (f" {f.point.gap}" if f.spread_k > 1 and f.point.gap != "shuffled" else "")


def _effect(effect: Effect) -> list[str]:
    return [percent(effect), floor(effect), judgement(effect), str(effect.n)]
