"""The fields that rows of a summary have in common: of samples, of pairs of them, of a result, of two."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np

from harness.analysis import sample_warnings, stats, verdicts
from harness.runs.record import Cell, Result, Status

Fields = dict[str, Any]  # of a row


def of_samples(samples_us: stats.Samples) -> Fields:
    """median_us, ci95_us, mean_us, n and warnings of samples in us; None where there are none."""
    if len(samples_us) == 0:
        return {"median_us": None, "ci95_us": None, "mean_us": None, "n": 0, "warnings": []}
    values = stats.to_array(samples_us)
    median = stats.median_interval(values)
    return {
        "median_us": median.median,
        "ci95_us": median.ci95,
        "mean_us": float(np.mean(values)),
        "n": median.n,
        "warnings": sample_warnings.warnings(values),
    }


def pull_in(results: Iterable[Result]) -> list[Result]:
    """The results with the outliers of each series bounded, arms that have as many samples together.

    See `stats.pull_in`: differences between arms of these results are those to report.
    """
    pulled = list(results)
    series: dict[tuple[str, int], list[int]] = {}
    for n, result in enumerate(pulled):
        if result.samples_us:
            series.setdefault((result.series, len(result.samples_us)), []).append(n)
    for members in series.values():
        samples = stats.pull_in([pulled[n].samples_us for n in members])
        for n, values in zip(members, samples, strict=True):
            pulled[n] = replace(pulled[n], samples_us=values.tolist())
    return pulled


def of_pairs(baseline_us: stats.Samples, treatment_us: stats.Samples, sound: bool) -> Fields:
    """baseline_us, delta_us, delta_pct, ci95_us, ci95_pct, p_value, verdict, reason_code, detectable_pct and
    n of samples in us.

    Args:
        baseline_us, treatment_us: after `pull_in`, at least one each; a longer list is cut to the
            shorter one's length.
        sound: whether all come from ok cells; if not, the figures stand, but the verdict is "unclear".
    """
    n = min(len(baseline_us), len(treatment_us))
    difference = stats.paired_difference(baseline_us[:n], treatment_us[:n])
    judgement = verdicts.judge(difference.ci95_pct, sound=sound)
    return {
        "baseline_us": difference.baseline_us,
        "delta_us": difference.delta_us,
        "delta_pct": difference.delta_pct,
        "ci95_us": difference.ci95_us,
        "ci95_pct": difference.ci95_pct,
        "p_value": difference.p_value,
        "verdict": judgement.verdict,
        "reason_code": judgement.reason,
        "detectable_pct": stats.detectable_pct(difference.ci95_pct),
        "n": difference.n,
    }


def clock_warnings(result: Result) -> list[str]:
    """Warnings about the clocks while the result was measured."""
    text = sample_warnings.clock_fell(result.clock_mhz)
    return [text] if text else []


def median_clock_mhz(results: Iterable[Result]) -> float | None:
    """The median SM clock, in MHz, over all samples of the results; None: not known."""
    clocks = [mhz for result in results for mhz in result.clock_mhz]
    return float(np.median(clocks)) if clocks else None


def cell_fields(cell: Cell) -> Fields:
    """The fields that the cells of every experiment have."""
    return {
        "stage": cell.stage,
        "kernel": cell.kernel,
        "provider": cell.provider,
        "arm": cell.arm,
        "spread_k": cell.spread_k,
        "block_size": cell.block_size,
        "data": cell.data,
    }


def cell_row(result: Result) -> Fields:
    """A cell of an experiment other than prefill: fields and axes, figures, median readings, status and
    reason.
    """
    row: Fields = {
        **cell_fields(result.cell),
        **dict(result.cell.point),
        **of_samples(result.samples_us),
        "warmup_us": float(np.mean(result.warmup_us)) if result.warmup_us else None,
        **{name: float(np.median(values)) for name, values in result.readings.items() if values},
        "stopped": result.stopped,
        "status": result.status.value,
        "reason": result.reason,
    }
    row["warnings"] += clock_warnings(result)
    return row


def contrast_row(contrast: str, baseline: Result, treatment: Result) -> Fields | None:
    """Treatment minus baseline of one series, pair by pair; `spread_k` and axes are the treatment's.

    None without a pair of samples.
    """
    if baseline.series != treatment.series or not (baseline.samples_us and treatment.samples_us):
        return None
    sound = baseline.status is treatment.status is Status.OK
    samples = stats.pull_in([baseline.samples_us, treatment.samples_us])
    return {
        "contrast": contrast,
        "kernel": treatment.cell.kernel,
        "spread_k": treatment.cell.spread_k,
        **dict(treatment.cell.point),
        **of_pairs(samples[0], samples[1], sound),
        "clock_mhz": median_clock_mhz([baseline, treatment]),
    }
