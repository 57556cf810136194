"""The page's figures: a chart for each of the first three questions."""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.effects import Effect
from harness.report.charts.spec import BAND, Axis, Band, Bars, Dot, Key, Row, Sheet, Tip
from harness.report.tables import percent
from study import answers
from study.points import DEVICE, PROCESSES, VLLM, Point

CALL, PREFILL = Key("attention call", "#0072B2", "circle"), Key("whole prefill", "#D55E00", "square")
TABLES = {
    (3, 16): Key("FA3, blocks of 16", "#0072B2", "circle"),
    (3, 128): Key("FA3, blocks of 128", "#56B4E9", "circle", hollow=True),
    (2, 16): Key("FA2, blocks of 16", "#D55E00", "square"),
    (2, 128): Key("FA2, blocks of 128", "#E69F00", "square", hollow=True),
}
TOLERANCE = Band.tolerance(0.5)


def sheets(points: Sequence[Point]) -> list[Sheet]:
    """Those that have anything to show."""
    charts = {
        "fragmentation": _fragmentation(points),
        "block-table": _tables(points),
        "cache-write": _writes(points),
    }
    about = f"{DEVICE}, vLLM {VLLM}, one prompt in one step; 95% intervals over {PROCESSES} processes or more"
    return [Sheet(name, about, [chart]) for name, chart in charts.items() if not chart.empty]


def _fragmentation(points: Sequence[Point]) -> Bars:
    """The mean of each group of points; of fewer than it takes, each point."""
    rows = []
    for key, kinds in ((CALL, answers.CALLS), (PREFILL, answers.PREFILLS)):
        for gap, where in (("shuffled", "segments side by side"), ("scattered", "segments scattered")):
            group = answers.group(points, "fragmentation", kinds, gap)
            pooled = group.pooled
            rows += [Row(f"{pooled.name}, {where}", dots=[_dot(pooled, key)])] if pooled else []
            rows += [Row(each.name, dots=[_dot(each, key)]) for each in group.effects if not pooled]
    title = "Fragmentation: as many segments as blocks, against one"
    legend = [CALL, PREFILL, Key(TOLERANCE.label, BAND)]
    return Bars(title, Axis("% of the call or the prefill", zero=0.0), rows, TOLERANCE, legend)


def _tables(points: Sequence[Point]) -> Bars:
    dots: dict[str, list[Dot]] = {}
    for (version, size), key in TABLES.items():
        for effect in answers.calls(points, "paging", version, size).effects:
            dots.setdefault(f"{effect.name} tokens", []).append(_dot(effect, key))
    title = "Block table: the same attention call with one, against without"
    rows = [Row(name, dots=found) for name, found in dots.items()]
    return Bars(title, Axis("% of the attention call", zero=0.0), rows, legend=[*TABLES.values()])


def _writes(points: Sequence[Point]) -> Bars:
    groups = answers.by_step(points, "cache_write").items()
    effects = {f"{effect.name}: {step}": effect for step, group in groups for effect in group.effects}
    rows = [Row(name, dots=[_dot(effect, PREFILL)]) for name, effect in effects.items()]
    return Bars(
        "Cache write: the same prefill with it, against without", Axis("% of the prefill", zero=0.0), rows
    )


def _dot(effect: Effect, key: Key) -> Dot:
    tip = Tip([effect.name, percent(effect.mean.value, effect.interval)])
    return Dot(effect.mean.value, key, tip, effect.interval)
