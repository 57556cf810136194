"""How long engines that differ in one option take for the same prefill, and what the cache costs in each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harness.analysis import figures, sample_warnings, stats, verdicts
from harness.analysis.breakdown.rows import Share, VariantRow
from harness.analysis.breakdown.samples import why_not
from harness.analysis.other_engines import AGAIN, BASELINE, Variant, by_engine, setting
from harness.runs.record import Result, Status
from harness.runs.schema import RunRecord
from harness.units import in_ms


def variant_rows(record: RunRecord, results: Iterable[Result]) -> list[VariantRow]:
    """summary.json's "variants": a row for each engine, the baseline's two first. Times in ms.

    An engine's difference is paired with the baseline's by rounds. Two engines of one configuration also
    differ in what rounds cannot show: where their memory lies, which cores they got. So the noise floor is
    the baseline against itself in a second engine (A/A), and the verdict is that of the interval widened by
    it. `paging` and `cache_write` are differences within one engine, in percent of its prefill.
    """
    engines = by_engine(results)
    if not engines:
        return []
    first = engines.get(BASELINE, {}).get("engine")
    repeated = _difference(first, engines.get(AGAIN, {}).get("engine"))
    floor = stats.noise_floor_pct(repeated[0].ci95_pct) if repeated else None
    return [_row(record, name, arms, first, floor) for name, arms in engines.items()]


def _row(
    record: RunRecord,
    name: str,
    arms: Mapping[str, Result],
    first: Result | None,
    floor: float | None,
) -> VariantRow:
    engine, variant = arms["engine"], Variant.from_name(name)
    median = stats.median_interval(engine.samples_us) if engine.samples_us else None
    compared = None if name == BASELINE else _difference(first, engine)
    against = compared[0] if compared else None
    judgement = _judge(name, *compared, floor) if compared else None
    settings = record.engine.to_json() if record.engine else {}
    return VariantRow(
        variant=name,
        option=variant.option if variant else None,
        value=variant.value if variant else None,
        baseline=f"{variant.option}={setting(settings, variant.option)}" if variant else None,
        engine_ms=median.median / 1000 if median else None,
        engine_ci95_ms=stats.map_interval(median.ci95, in_ms) if median else None,
        n=len(engine.samples_us),
        delta_ms=against.ms if against else None,
        ci95_ms=against.ci95_ms if against else None,
        delta_pct=against.pct if against else None,
        ci95_pct=against.ci95_pct if against else None,
        p_value=against.p_value if against else None,
        verdict=judgement.verdict if judgement else None,
        reason_code=judgement.reason if judgement else None,
        clock_mhz=figures.median_clock_mhz([engine]),
        noise_floor_pct=floor,
        paging=_within(arms, "dense", "paged"),
        cache_write=_within(arms, "no_write", "dense"),
        stopped=engine.stopped,
        status=engine.status.value,
        reason=engine.reason,
        warnings=sample_warnings.warnings(engine.samples_us) if engine.samples_us else [],
    )


def _judge(name: str, against: Share, sound: bool, floor: float | None) -> verdicts.Judgement:
    bounds = against.ci95_pct
    if name == AGAIN:
        return verdicts.judge(bounds, sound=sound)
    widened = None if bounds is None or floor is None else (bounds[0] - floor, bounds[1] + floor)
    return verdicts.judge_beyond_noise(bounds, widened, sound=sound)


def _within(arms: Mapping[str, Result], baseline: str, treatment: str) -> Share:
    """A difference of two arms of one engine, in percent of its `engine` arm."""
    one, two, whole = arms.get(baseline), arms.get(treatment), arms["engine"]
    # One reason is enough, dense's first: dense is in both figures.
    objections = (why_not(arms.get(name), name) for name in sorted((baseline, treatment)))
    lacking = next((text for text in objections if text), None)
    remarks = dict.fromkeys(arm.reason for arm in (one, two) if arm and arm.reason)
    paired = _difference(one, two, whole)
    share = paired[0] if paired else Share(ms=None, ci95_ms=None, pct=None, ci95_pct=None, n=0, reason=None)
    share.reason = lacking or "; ".join(remarks) or None
    return share


def _difference(
    one: Result | None, two: Result | None, whole: Result | None = None
) -> tuple[Share, bool] | None:
    """The paired difference of two arms, in percent of `whole` (of `one`), and whether both arms are ok.

    None without pairs.
    """
    n = min(len(one.samples_us), len(two.samples_us)) if one and two else 0
    if not one or not two or not n:
        return None
    paired = stats.paired_difference(*stats.pull_in([one.samples_us, two.samples_us]))
    of = whole.samples_us if whole else one.samples_us[:n]
    level_us = stats.median_interval(of).median if of else None
    share = Share(
        ms=paired.delta_us / 1000,
        ci95_ms=stats.map_interval(paired.ci95_us, in_ms),
        pct=level_us and 100 * paired.delta_us / level_us,
        ci95_pct=stats.map_interval(paired.ci95_us, lambda us: 100 * us / level_us) if level_us else None,
        n=n,
        p_value=paired.p_value,
        reason=None,
    )
    return share, one.status is two.status is Status.OK
