"""The charts of `workload`: its steps by kind, throughput and latency of every arm, its layout over time."""

from __future__ import annotations

from harness.analysis import stats
from harness.analysis.rows import select
from harness.experiments.workload.rows import ArmRow, KindRow, WorkloadSummary
from harness.experiments.workload.summary import ALL, PERCENTILES
from harness.experiments.workload.view import LABELS, RECORDED, kind_label, rate, share, work_text
from harness.report.charts.spec import (
    INK,
    Axis,
    Bars,
    Chart,
    Dot,
    Key,
    Line,
    Lines,
    Part,
    Point,
    Row,
    Sheet,
    Tip,
)
from harness.report.tips import Tips, median_ms, pick_evenly
from harness.runs.schema import RunRecord

PARTS = {
    "attention_pct": Key("attention", "#0072B2"),
    "cache_write_pct": Key("cache write", "#D55E00"),
    "other_pct": Key("the rest of the device's work", "#999999"),
    "waiting_pct": Key("waiting within steps", "#F0E442"),
    "between_pct": Key("between steps", "#F0E442", hatched=True),
    "unknown": Key("not profiled", "#BBBBBB", hatched=True),
}
ARMS = {
    arm: Key(LABELS[arm], colour, marker)
    for arm, colour, marker in zip(
        LABELS,
        (INK, "#56B4E9", "#999999", "#0072B2", "#009E73"),
        ("circle", "square", "triangle", "diamond", "cross"),
        strict=True,
    )
}
OF_PERCENTILES = {
    p: Key(f"p{p}", colour, marker)
    for p, colour, marker in zip(
        PERCENTILES, ("#0072B2", "#E69F00", "#D55E00"), ("circle", "square", "triangle"), strict=True
    )
}
LOOKS = {"stock": (INK, "circle"), "whole": ("#56B4E9", "square")}
MOST_STEPS = 200  # points of a line


def charts(record: RunRecord, summary: WorkloadSummary, tips: Tips) -> list[Sheet]:
    """The steps' breakdown first."""
    where = f"{record.model.name}, {record.device.name}"
    breakdown: list[Chart] = [
        Bars(
            "Where a pass's time goes, by kind of step",
            Axis("ms"),
            [_kind(row) for row in summary.kinds if row.kind != ALL],
        )
    ]
    passes: list[Chart] = [
        Bars("A pass of the whole work", Axis("ms"), [_arm(row, summary, tips) for row in summary.arms]),
        Bars("Time of a request", Axis("ms", zero=0.0), [_requests(row) for row in summary.arms]),
    ]
    layout = Lines(
        "Segments per block of each step's block tables",
        Axis("ms since the pass began"),
        Axis("segments per block", zero=0.0),
        [_layout(summary, arm) for arm in RECORDED],
    )
    sheets = [
        Sheet("workload_steps", f"{work_text(record)}: {where}", breakdown),
        Sheet("workload_arms", f"Throughput and latency of the work: {where}", passes),
        Sheet("workload_layout", f"Natural layout: {where}", [layout]),
    ]
    return [sheet for sheet in sheets if not all(chart.empty for chart in sheet.charts)]


def _kind(row: KindRow) -> Row:
    parts = []
    for name, key in PARTS.items():
        pct = getattr(row, name, None)
        if name == "unknown":
            pct = 100 - row.between_pct if row.attention_pct is None else None
        if pct:
            tip = Tip(
                [
                    f"{row.kind}, {LABELS[row.arm]}: {key.label}",
                    f"{share(pct)}% of {row.wall_us / 1000:.1f} ms",
                ]
            )
            parts.append(Part(pct / 100 * row.wall_us / 1000, key, tip, text=f"{pct:.0f}%"))
    return Row(kind_label(row), parts)


def _arm(row: ArmRow, summary: WorkloadSummary, tips: Tips) -> Row:
    name = LABELS[row.arm]
    if row.median_us is None:
        return Row(f"{name}: {row.status}")
    more = [
        f"{each.contrast}: {each.requests_per_s_pct:+.1f}% requests/s"
        for each in select(summary.contrasts, treatment=row.arm, figure="pass")
        if each.requests_per_s_pct is not None
    ]
    bounds = stats.map_interval(row.ci95_us, lambda us: us / 1000)
    text = f"{rate(row.requests_per_s)} requests/s"
    part = Part(row.median_us / 1000, ARMS[row.arm], tips.cell(row, f"{name}: {text}", *more), bounds, text)
    return Row(f"{name}: {median_ms(row)}", [part])


def _requests(row: ArmRow) -> Row:
    dots = []
    for p, key in OF_PERCENTILES.items():
        value, bounds = getattr(row, f"p{p}_us"), getattr(row, f"ci95_p{p}_us")
        if value is not None:
            tip = Tip([f"{LABELS[row.arm]}, p{p} of a request's time", f"{value / 1000:.1f} ms"])
            dots.append(Dot(value / 1000, key, tip, stats.map_interval(bounds, lambda us: us / 1000)))
    return Row(LABELS[row.arm] if dots else f"{LABELS[row.arm]}: {row.status}", dots=dots)


def _layout(summary: WorkloadSummary, arm: str) -> Line:
    colour, marker = LOOKS[arm]
    steps = [step for step in select(summary.steps, arm=arm) if step.blocks]
    points = [
        Point(
            step.start_us / 1000,
            step.segments / step.blocks,
            tip=Tip([f"step {step.step}, {step.kind}", f"{step.segments} segments of {step.blocks} blocks"]),
        )
        for step in pick_evenly(steps, MOST_STEPS)
    ]
    return Line(Key(LABELS[arm], colour, marker, "solid"), points)
