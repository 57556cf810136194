"""Which changes help, which of them to take, and from which hit rate on prefix caching is worth it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.analysis import stats, verdicts
from harness.analysis.families import CLAIMS
from harness.analysis.rows import find, select
from harness.analysis.stats import Interval
from harness.experiments.advise.changes import AGAIN, STOCK
from harness.experiments.advise.rows import AdviseCell, AdviseContrast, BreakEvenRow, Found, Metric
from harness.runs.summary import Reason

AA, WARM, CACHING = "A/A", "warm", "prefix-caching"
FOUND: dict[str, Found] = {"faster": "helps", "slower": "hurts", "same": "same", "unclear": "unclear"}


def widen(contrasts: Sequence[AdviseContrast]) -> None:
    """Withdraw claims of differences that two engines of stock show as well (A/A), metric by metric."""
    for row in contrasts:
        again = find(contrasts, contrast=AA, metric=row.metric)
        if row.contrast in (AA, WARM):  # within one engine, or the floor itself
            continue
        row.noise_floor_pct = stats.noise_floor_pct(again.ci95_pct) if again else None
        if row.verdict in CLAIMS:
            floor, bounds = row.noise_floor_pct, row.ci95_pct
            widened = None if bounds is None or floor is None else (bounds[0] - floor, bounds[1] + floor)
            row.verdict, row.reason_code = verdicts.judge_beyond_noise(bounds, widened)


def contrast_of(contrasts: Iterable[AdviseContrast], candidate: str, metric: Metric) -> AdviseContrast | None:
    """A candidate's contrast with stock; None if it was not measured."""
    return find(contrasts, contrast=candidate, candidate=candidate, metric=metric)


def helpful(contrasts: Iterable[AdviseContrast], goal: Metric) -> list[AdviseContrast]:
    """The contrasts of changes that help, the largest gain first."""
    found = [
        row for row in select(contrasts, metric=goal, verdict="faster") if row.contrast not in (AA, WARM)
    ]
    return sorted(found, key=lambda row: row.delta_pct)


def recommend(contrasts: Sequence[AdviseContrast], goal: Metric) -> str | None:
    """The candidate with the largest gain of those that help, else stock; None where nothing was judged."""
    if best := helpful(contrasts, goal):
        return best[0].candidate
    judged = (row for row in contrasts if row.reason_code != Reason.BUSY_HOST)
    return STOCK if any(row.candidate != AGAIN for row in judged) else None


def break_even(
    cells: Sequence[AdviseCell], contrasts: Sequence[AdviseContrast], recommended: str | None
) -> list[BreakEvenRow]:
    """Hit rates at which prefix caching is as fast as the same engine without it, or as the plugin.

    Time is taken to fall evenly with the hit rate, between an empty cache and one that the file has filled.
    """
    of_series = {"candidate": CACHING, "metric": "throughput"}
    toggled = contrast_of(contrasts, CACHING, "throughput")
    warm, filled = find(contrasts, contrast=WARM, **of_series), find(cells, arm=WARM, **of_series)
    cached = [row for row in select(cells, **of_series) if row.arm != WARM and row.hit_rate_pct is not None]
    if not (toggled and warm and filled and cached and filled.hit_rate_pct is not None):
        return []
    here, most = cached[0].hit_rate_pct or 0.0, filled.hit_rate_pct
    if most <= here or warm.delta_pct >= 0:
        return []
    # In percent of stock's time: with the cache as the file comes, and what all of its hits save.
    on = _change(toggled) if cached[0].arm != STOCK else (0.0, (0.0, 0.0))
    level = 1 + on[0] / 100
    saved = -level * warm.delta_pct, _scale(warm.ci95_pct, -level)
    others = {"the same without it": _change(toggled) if cached[0].arm == STOCK else (0.0, (0.0, 0.0))}
    best = contrast_of(contrasts, recommended or STOCK, "throughput")
    if best and best.candidate != CACHING and _without_cache(best.candidate):
        others[best.candidate] = _change(best)
    rows = []
    for name, other in others.items():
        share = (on[0] - other[0]) / saved[0]
        bounds = stats.quotient_interval(_minus(on[1], other[1]), saved[1])
        rows.append(
            BreakEvenRow(
                against=name,
                hit_rate_pct=here + share * (most - here),
                ci95_pct=stats.map_interval(bounds, lambda each: here + each * (most - here)),
                here_pct=here,
                filled_pct=most,
            )
        )
    return rows


def _without_cache(candidate: str) -> bool:
    """Whether a candidate runs without a prefix cache."""
    return "plugin-" in candidate


def _change(row: AdviseContrast) -> tuple[float, Interval | None]:
    return row.delta_pct, row.ci95_pct


def _scale(bounds: Interval | None, factor: float) -> Interval | None:
    """The interval times a factor, which may be negative."""
    return bounds and (min(factor * each for each in bounds), max(factor * each for each in bounds))


def _minus(one: Interval | None, two: Interval | None) -> Interval | None:
    """All differences of values within both."""
    return (one[0] - two[1], one[1] - two[0]) if one and two else None
