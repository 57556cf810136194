"""The answer and the charts of `cache`: what a warm prefix cache saves, and how long a prefill takes."""

from __future__ import annotations

from harness.analysis import stats
from harness.experiments.cache.rows import CacheCell, CacheContrast, CacheSummary
from harness.experiments.cache.view import prompts_of, sizes_of
from harness.report.charts.spec import SOFT, Axis, Band, Key, Line, Lines, Point, Sheet
from harness.report.tables import ms
from harness.report.tips import Tips, contrast_point, lost, lost_point
from harness.runs.schema import RunRecord
from harness.units import pluralise

LOOKS = (("#0072B2", "circle"), ("#D55E00", "square"))  # single prompts, batches
SHARE = Axis("share of the prompt that is cached, %", at_points=True)
EVEN = Key("time saved = tokens saved", SOFT, line="dotted")


def charts(record: RunRecord, summary: CacheSummary, tips: Tips) -> list[Sheet]:
    """Difference and time over the share, and the savings from hits."""
    name, length = record.model.name, record.config["length"]
    title = f"Prefix cache: {name}, {pluralise(length, 'token')}, {record.device.name}"
    return [Sheet("cache", title, [_differences(summary), _times(summary, tips), _savings(summary)])]


def _key(size: int, arm: str = "") -> Key:
    """The look of single prompts or a batch; warm is dashed."""
    look = LOOKS[size > 1]
    name = "one prompt" if size == 1 else f"batch of {size}"
    return Key(
        f"{name}, {arm}" if arm else name,
        *look,
        "solid" if arm == "reset" else "dashed",
        hollow=arm != "reset",
    )


def _warm(summary: CacheSummary, size: int) -> list[CacheContrast]:
    """The contrasts of warm against reset, by ascending share."""
    return summary.index(summary.contrasts).select(contrast="warm", batch_size=size)


def _contrast_lines(row: CacheContrast) -> str:
    return f"{prompts_of(row)}, {row.share_pct}%: warm against reset"


def _differences(summary: CacheSummary) -> Lines:
    lines = [
        Line(
            _key(size),
            [contrast_point(row.share_pct, row, _contrast_lines(row)) for row in _warm(summary, size)],
        )
        for size in sizes_of(summary)
    ]
    unit = Axis("% of the time after a reset, with 95% intervals", zero=0.0)
    return Lines("Warm against reset", SHARE, unit, lines, [Band.tolerance(summary.tolerance_pct)])


def _times(summary: CacheSummary, tips: Tips) -> Lines:
    lines = []
    for size in sizes_of(summary):
        for arm in ("reset", "warm"):
            rows = summary.index(summary.cells).select(batch_size=size, arm=arm)
            lines.append(Line(_key(size, arm), [_point(row, tips) for row in rows]))
    return Lines(
        "Time of an engine step, divided by its prompts",
        SHARE,
        Axis("ms per prompt, with 95% intervals", zero=0.0),
        lines,
        note=lost((_name(row), row) for row in summary.cells),
    )


def _name(row: CacheCell) -> str:
    return f"{prompts_of(row)}, {row.share_pct}%, {row.arm}"


def _point(row: CacheCell, tips: Tips) -> Point:
    """A step's time, divided by its prompts."""
    if row.median_us is None:
        return lost_point(row.share_pct, row, _name(row))
    rate, each = row.hit_rate_pct, 1000 * row.batch_size
    more = [] if rate is None else [f"hit rate {rate:.1f}%, expected {row.expected_rate_pct:.1f}%"]
    if row.batch_size > 1:
        more.append(f"{ms(row.median_us / row.batch_size, 2)} ms per prompt")
    bounds = stats.map_interval(row.ci95_us, lambda bound: bound / each)
    return Point(row.share_pct, row.median_us / each, bounds, tips.cell(row, _name(row), *more))


def _savings(summary: CacheSummary) -> Lines:
    """The share of time that hits save, beside what they would save if time were proportional to tokens."""
    lines = []
    for size in sizes_of(summary):
        rates = {
            row.share_pct: row.hit_rate_pct
            for row in summary.index(summary.cells).select(batch_size=size, arm="warm")
        }
        points = []
        for row in _warm(summary, size):
            if (rate := rates.get(row.share_pct)) is not None:
                point = contrast_point(rate, row, f"{_contrast_lines(row)}, hit rate {rate:.1f}%")
                bounds = row.ci95_pct and (-row.ci95_pct[1], -row.ci95_pct[0])
                points.append(Point(rate, -row.delta_pct, bounds, point.tip))
        lines.append(Line(_key(size), sorted(points, key=lambda point: point.x)))
    if any(line.measured for line in lines):
        lines.append(Line(EVEN, [Point(end, end) for end in (0.0, 100.0)]))
    hits = Axis("hit rate, % of the prompt's tokens (vLLM's count)")
    return Lines("Savings from cache hits", hits, Axis("time saved, %, with 95% intervals"), lines)
