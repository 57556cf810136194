"""What engines that differ in one option take for the same prefill, and what the cache costs in each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.analysis import stats
from harness.analysis.breakdown.samples import Row, why_not
from harness.analysis.other_engines import AGAIN, BASELINE, Variant, by_engine, setting
from harness.runs.record import Result, Status


def variant_rows(record: Mapping[str, Any], results: Iterable[Result]) -> list[Row]:
    """summary.json's "variants": a row for each engine, the baseline's two first. Times in ms.

    An engine's difference is paired with the baseline's by rounds. Two engines of one configuration differ,
    too, by what the rounds do not show: where their memory lies, which cores they got. So the noise floor is
    the baseline against itself in a second engine (A/A), and the verdict is that of the interval widened by
    it. `paging` and `cache_write` are differences within one engine, in percent of its prefill.
    """
    engines = by_engine(results)
    if not engines:
        return []
    first = engines.get(BASELINE, {}).get("engine")
    repeated = _difference(first, engines.get(AGAIN, {}).get("engine"))
    floor = stats.noise_floor_pct(repeated["ci95_pct"]) if repeated else None
    return [_row(record, name, arms, first, floor) for name, arms in engines.items()]


def _row(
    record: Mapping[str, Any],
    name: str,
    arms: Mapping[str, Result],
    first: Result | None,
    floor: float | None,
) -> Row:
    engine, variant = arms["engine"], Variant.named(name)
    median = stats.median_interval(engine.samples_us) if engine.samples_us else None
    against = None if name == BASELINE else _difference(first, engine)
    own = f"{variant.option}={setting(record.get('engine', {}), variant.option)}" if variant else None
    return {
        "variant": name,
        "option": variant and variant.option,
        "value": variant and variant.value,
        "baseline": own,
        "engine_ms": median and median.median / 1000,
        "engine_ci95_ms": median and median.ci95 and [bound / 1000 for bound in median.ci95],
        "n": len(engine.samples_us),
        "delta_ms": against and against["ms"],
        "ci95_ms": against and against["ci95_ms"],
        "delta_pct": against and against["pct"],
        "ci95_pct": against and against["ci95_pct"],
        "verdict": against and _verdict(name, against, floor),
        "noise_floor_pct": floor,
        "paging": _within(arms, "dense", "paged"),
        "cache_write": _within(arms, "no_write", "dense"),
        "stopped": engine.stopped,
        "status": engine.status.value,
        "reason": engine.reason,
        "warnings": stats.warnings(engine.samples_us) if engine.samples_us else [],
    }


def _verdict(name: str, against: Row, floor: float | None) -> str:
    bounds = against["ci95_pct"]
    if bounds is None or not against["sound"]:
        return "unclear"
    if name == AGAIN:
        return stats.verdict(bounds)
    return "unclear" if floor is None else stats.verdict((bounds[0] - floor, bounds[1] + floor))


def _within(arms: Mapping[str, Result], baseline: str, treatment: str) -> Row:
    """A difference of two arms of one engine, in percent of its `engine` arm."""
    one, two, whole = arms.get(baseline), arms.get(treatment), arms["engine"]
    found = _difference(one, two, whole)
    # One reason is enough: of dense ahead of the others, which is in both figures.
    objections = (why_not(arms.get(name), name) for name in sorted((baseline, treatment)))
    lacking = next((text for text in objections if text), None)
    remarks = dict.fromkeys(arm.reason for arm in (one, two) if arm and arm.reason)
    names = ("ms", "ci95_ms", "pct", "ci95_pct", "n")
    figures = {name: found[name] for name in names} if found else dict.fromkeys(names) | {"n": 0}
    return figures | {"reason": lacking or "; ".join(remarks) or None}


def _difference(one: Result | None, two: Result | None, whole: Result | None = None) -> Row | None:
    """The paired difference of two arms, in percent of `whole` (of `one`); None without pairs."""
    n = min(len(one.samples_us), len(two.samples_us)) if one and two else 0
    if not one or not two or not n:
        return None
    found = stats.paired_difference(one.samples_us[:n], two.samples_us[:n])
    of = whole.samples_us if whole else one.samples_us[:n]
    level_us = stats.median_interval(of).median if of else None
    bounds = found.ci95_us
    return {
        "ms": found.delta_us / 1000,
        "ci95_ms": bounds and [bound / 1000 for bound in bounds],
        "pct": level_us and 100 * found.delta_us / level_us,
        "ci95_pct": level_us and bounds and [100 * bound / level_us for bound in bounds],
        "n": n,
        "sound": one.status is Status.OK and two.status is Status.OK,
    }
