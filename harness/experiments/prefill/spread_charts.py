"""Figures over spread_k and over the layers."""

from __future__ import annotations

import math

from markupsafe import Markup

from harness.config.kernel_names import FUNCTIONS
from harness.report.page.lines import Band, Line, Plot, Point
from harness.report.page.samples import Samples
from harness.report.page.svg import Key
from harness.report.plots import ARM_NAMES, COLOURS, DASHED_ARMS
from harness.report.rows import Mean, Row, most_runs
from harness.units import counted

MARKERS = dict(zip(FUNCTIONS, ("circle", "square", "triangle"), strict=True))
INK = "var(--ink)"
PREFILL = Key("prefill, end to end", "#CC79A7", "cross")
OVER_SPREAD = "spread_k (runs)"


def over_spread_k(summary: Row, samples: Samples) -> Markup:
    """Differences to one run, kernel times and prefill times over spread_k."""
    mean = Mean(summary)
    panels = (
        _differences(mean, samples, summary["tolerance_pct"]),
        _kernels(mean, samples),
        _prefills(mean, samples),
    )
    return Markup("").join(panel.html() for panel in panels if panel.lines)


def _differences(mean: Mean, samples: Samples, tolerance_pct: float) -> Plot:
    """What k runs cost against one, in percent: of every paged kernel, and of the prefill."""
    lines = []
    for kernel, arm in [
        *((kernel, "paged") for kernel in mean.engine_kernels()),
        (FUNCTIONS[2], "fragmented"),
    ]:
        rows = [mean.contrast(kernel, f"{arm}@1", arm, k) for k in mean.spread_ks() if k > 1]
        lines.append(_paired(arm_key(kernel, arm), [row for row in rows if row], samples))
    prefills = [mean.contrast("prefill", "paged@1", "paged", k) for k in mean.spread_ks() if k > 1]
    lines.append(_paired(PREFILL, [row for row in prefills if row], samples))
    return Plot(
        "Fragmentation: k runs against one",
        "% of one run, with 95% intervals",
        OVER_SPREAD,
        [line for line in lines if line.points],
        [Band(-tolerance_pct, tolerance_pct, f"too small to matter: within {tolerance_pct:g}%")],
        log=True,
        zero=True,
    )


def _paired(key: Key, rows: list[Row], samples: Samples, by: str = "spread_k") -> Line:
    """A contrast's rows as a line in percent."""
    return Line(key, [Point(r[by], r["delta_pct"], r["ci95_pct"], samples.contrast_tip(r)) for r in rows])


def _kernels(mean: Mean, samples: Samples) -> Plot:
    """Every kernel and arm, in ms."""
    lines = []
    for kernel in (*FUNCTIONS, *mean.engine_kernels()):
        for arm in ("contiguous", "fragmented", "dense", "paged"):
            rows = [row for k in mean.spread_ks() if (row := mean.kernel(kernel, arm, k))]
            rows = [row for row in rows if row["spread_k"] <= (most_runs(row) or math.inf)] or rows[:1]
            points = [_kernel_point(row, mean, samples) for row in rows if row["median_us"] is not None]
            if points:
                lines.append(Line(arm_key(kernel, arm), points))
    return Plot(
        "Attention kernels: one call, mean over the measured layers",
        "ms per attention call; the axis does not start at zero",
        OVER_SPREAD,
        lines,
        log=True,
        note="Non-contiguous, of a function without a block table: the kernel after a gather, which is not "
        "counted. Dense and paged differ in their code, not in their layout alone.",
    )


def _kernel_point(row: Row, mean: Mean, samples: Samples) -> Point:
    paired = mean.contrast(row["kernel"], f"{row['arm']}@1", row["arm"], row["spread_k"])
    bounds = row["ci95_us"] and [bound / 1000 for bound in row["ci95_us"]]
    return Point(row["spread_k"], row["median_us"] / 1000, bounds, samples.kernel_tip(row, paired))


def _prefills(mean: Mean, samples: Samples) -> Plot:
    """The whole prefill, in ms, and the noise floor around one run."""
    points = []
    for row in mean.sweep():
        paired = mean.contrast("prefill", "paged@1", "paged", row["spread_k"])
        name = counted(row["spread_k"], "run")
        if row["median_ms"] is not None:
            tip = samples.prefill_tip(row, name, 3, paired)
            points.append(Point(row["spread_k"], row["median_ms"], row["ci95_ms"], tip))
    bands = []
    repeat = mean.contrast("prefill", "paged@1", "paged@1 again", 1)
    if repeat and repeat["noise_floor_pct"] is not None:
        level, share = repeat["baseline_us"] / 1000, repeat["noise_floor_pct"] / 100
        bands.append(Band(level * (1 - share), level * (1 + share), "noise floor (A/A) around one run"))
    return Plot(
        "Prefill, end to end",
        "ms per prefill; the axis does not start at zero",
        OVER_SPREAD,
        [Line(PREFILL, points)] if points else [],
        bands,
        log=True,
    )


def over_layers(summary: Row, samples: Samples) -> Markup:
    """The engine's kernels layer by layer: paging at one run, fragmentation at the most runs."""
    mean = Mean(summary)
    most = max(mean.spread_ks(), default=1)
    panels = []
    for kernel in mean.engine_kernels():
        for title, baseline, treatment, k in (
            (f"Paging: one run against dense, {kernel}", "dense", "paged@1", 1),
            (f"Fragmentation: {counted(most, 'run')} against one, {kernel}", "paged@1", "paged", most),
        ):
            wanted: Row = {"kernel": kernel, "baseline": baseline, "treatment": treatment, "spread_k": k}
            wanted |= {"data": "captured", "rank": summary["slowest_rank"]}
            rows = [row for row in summary["contrasts"] if wanted.items() <= row.items()]
            rows = sorted(
                (row for row in rows if isinstance(row["layer"], int)), key=lambda row: row["layer"]
            )
            line = _paired(Key(kernel, INK, "diamond", hollow=True), rows, samples, by="layer")
            bands = [Band(-summary["tolerance_pct"], summary["tolerance_pct"], "too small to matter")]
            unit = "% of the baseline, with 95% intervals"
            panels.append(Plot(title, unit, "layer", [line] if rows else [], bands, zero=True))
    return Markup("").join(panel.html() for panel in panels)


def arm_key(kernel: str, arm: str) -> Key:
    """How an arm of a kernel looks: colour and shape are the kernel's, dashes and hollows the arm's."""
    fragmented = arm in DASHED_ARMS
    name = f"{kernel}, {ARM_NAMES.get(arm, arm)}"
    return Key(name, COLOURS.get(kernel, INK), MARKERS.get(kernel, "diamond"), fragmented, fragmented)
