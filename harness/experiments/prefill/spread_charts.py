"""Charts over spread_k and over the layers."""

from __future__ import annotations

from harness import batch
from harness.analysis.rows import ContrastRow, KernelRow
from harness.config.kernel_names import FUNCTIONS, looks
from harness.experiments.prefill.mean import Mean
from harness.experiments.prefill.rows import PrefillSummary
from harness.report.arms import ENGINE_LOOK, OVER_SPREAD, arm_key, arm_lines, lost_arms
from harness.report.charts.spec import Axis, Band, Key, Line, Lines, Point, Sheet
from harness.report.tips import Tips, lost, lost_point
from harness.runs.schema import RunRecord
from harness.units import pluralise

PREFILL = Key("prefill, end to end", "#CC79A7", "circle", "solid")
ARMS = ("contiguous", "fragmented", "dense", "paged")


def sheets(record: RunRecord, summary: PrefillSummary, tips: Tips) -> list[Sheet]:
    """Differences to one segment, kernel times and prefill times over spread_k; differences layer by
    layer.
    """
    mean, requests = Mean(summary), record.prompts
    prompts = f", {batch.describe(requests)}" if requests else ""
    where = f"{record.model.name}{prompts}, {record.device.name}"
    tolerance = summary.tolerance_pct
    over_spread = [_differences(mean, tips, tolerance), _kernels(mean, tips), _prefills(mean, tips)]
    return [
        Sheet("spread_k", f"Prefill under fragmented KV layouts: {where}", over_spread),
        Sheet("layers", f"Layer by layer: {where}", _over_layers(summary, tips)),
    ]


def _differences(mean: Mean, tips: Tips, tolerance_pct: float) -> Lines:
    """The cost of k segments against one, in percent, for every paged kernel and for the prefill."""
    compared = [(arm_key(kernel, "paged", ENGINE_LOOK), kernel, "paged") for kernel in mean.engine_kernels()]
    function = FUNCTIONS[2]
    compared.append((arm_key(function, "fragmented", looks([])[function]), function, "fragmented"))
    compared.append((PREFILL, "prefill", "paged"))
    lines = []
    for key, kernel, arm in compared:
        rows = [mean.contrast(kernel, f"{arm}@1", arm, k) for k in mean.spread_ks() if k > 1]
        lines.append(_contrast_line(key, [row for row in rows if row], tips))
    return Lines(
        "Fragmentation: k segments against one",
        OVER_SPREAD,
        Axis("% of one segment, with 95% intervals", zero=0.0),
        lines,
        [Band.tolerance(tolerance_pct)],
    )


def _contrast_line(key: Key, rows: list[ContrastRow], tips: Tips, by: str = "spread_k") -> Line:
    """A contrast's rows as a line in percent."""
    return Line(key, [Point(getattr(r, by), r.delta_pct, r.ci95_pct, tips.contrast(r)) for r in rows])


def _kernels(mean: Mean, tips: Tips) -> Lines:
    """Every kernel and arm, in ms, and the noise floor of the engine's own."""
    lines, all_rows = [], []
    looks_of = {name: look for name, look in looks([]).items() if name in FUNCTIONS}
    for kernel in dict.fromkeys((*FUNCTIONS, *mean.engine_kernels())):
        for arm in ARMS:
            rows = [row for k in mean.spread_ks() if (row := mean.kernel(kernel, arm, k))]
            all_rows += rows
            lines += arm_lines(rows, looks_of, tips, lambda row: _to_one_segment(mean, row))
    return Lines(
        "Attention kernels: one call, mean over the measured layers",
        OVER_SPREAD,
        Axis("ms per attention call, with 95% intervals"),
        lines,
        [band for kernel in mean.engine_kernels() for band in _noise_floor(mean, kernel)],
        note="Non-contiguous, for a function without a block table: the kernel after a gather, which is not "
        "counted. Dense and paged differ in code, not only in layout. " + lost_arms(all_rows),
    )


def _to_one_segment(mean: Mean, row: KernelRow) -> ContrastRow | None:
    return mean.contrast(row.kernel, f"{row.arm}@1", row.arm, row.spread_k)


def _noise_floor(mean: Mean, kernel: str) -> list[Band]:
    """The band around paged in one segment, within which differences are noise."""
    repeats = [mean.contrast(kernel, "paged@1", "paged@1 again", k) for k in mean.spread_ks()]
    edges = [
        (float(row.spread_k), level * (1 - share), level * (1 + share))
        for row in repeats
        if row and row.noise_floor_pct is not None
        for level, share in [(row.baseline_us / 1000, row.noise_floor_pct / 100)]
    ]
    return [Band(f"{kernel}, paged, 1 segment: noise floor", edges)] if edges else []


def _prefills(mean: Mean, tips: Tips) -> Lines:
    """Whole prefills in ms, with the noise floor around one segment."""
    points, named = [], []
    for row in mean.sweep():
        k = row.spread_k
        name = f"prefill, {pluralise(k, 'segment')}"
        named.append((name, row))
        if row.median_ms is None:
            points.append(lost_point(k, row, name))
            continue
        tip = tips.cell(row, name, paired=mean.contrast("prefill", "paged@1", "paged", k))
        points.append(Point(k, row.median_ms, row.ci95_ms, tip))
    bands = []
    repeat = mean.contrast("prefill", "paged@1", "paged@1 again", 1)
    if repeat and repeat.noise_floor_pct is not None:
        level, share = repeat.baseline_us / 1000, repeat.noise_floor_pct / 100
        bands.append(Band.level("noise floor around one segment", level * (1 - share), level * (1 + share)))
    return Lines(
        "Prefill, end to end",
        OVER_SPREAD,
        Axis("ms per prefill, with 95% intervals"),
        [Line(PREFILL, points)],
        bands,
        note=lost(named),
    )


def _over_layers(summary: PrefillSummary, tips: Tips) -> list[Lines]:
    """The engine's kernels layer by layer: paging at one segment, fragmentation at the most segments."""
    mean = Mean(summary)
    most = max(mean.spread_ks(), default=1)
    panels = []
    for kernel in mean.engine_kernels():
        for title, baseline, treatment, k in (
            (f"Paging: one segment against dense, {kernel}", "dense", "paged@1", 1),
            (f"Fragmentation: {pluralise(most, 'segment')} against one, {kernel}", "paged@1", "paged", most),
        ):
            rows = summary.index(summary.contrasts).select(
                kernel=kernel,
                baseline=baseline,
                treatment=treatment,
                spread_k=k,
                data="captured",
                rank=summary.slowest_rank,
            )
            by_layer = {row.layer: row for row in rows if isinstance(row.layer, int)}
            rows = [row for _, row in sorted(by_layer.items())]
            key = Key(kernel, *ENGINE_LOOK, "solid", hollow=True)
            unit = Axis("% of the baseline, with 95% intervals", zero=0.0)
            band = Band.tolerance(summary.tolerance_pct)
            layers = Axis("layer", at_points=True)
            panels.append(Lines(title, layers, unit, [_contrast_line(key, rows, tips, by="layer")], [band]))
    return panels
