"""Where the time of a profiled prefill went, compared with the same arm's prefills that were not profiled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from harness.analysis.breakdown.rows import CategoryRow, ProfilingRow
from harness.analysis.breakdown.samples import why_not
from harness.runs.record import Result
from harness.runs.schema import ProfileRecord, RunRecord

CATEGORIES = (
    *("attention", "cache write", "matrix products", "norms, activations, rope"),
    *("sampling", "copies", "other"),
)


def components(record: RunRecord, arms: Mapping[str, Result]) -> list[CategoryRow]:
    """Each profiled arm's categories, then the rest of its step; `pct` is of that step."""
    rows = []
    for profile, median_ms in _profiles(record, arms):
        times: dict[str, float | None] = {**dict.fromkeys(CATEGORIES, 0.0), **profile.categories}
        rest = "GPU idle" if profile.device == "cuda" else "outside operators"
        step_ms = None if median_ms is None else _step_ms(profile, median_ms)
        times[rest] = None if step_ms is None else max(0.0, step_ms - profile.busy_ms)
        rows += [
            CategoryRow(
                arm=profile.arm,
                spread_k=profile.spread_k,
                category=category,
                ms=ms,
                pct=None if ms is None or step_ms is None else 100 * ms / step_ms,
            )
            for category, ms in times.items()
        ]
    return rows


def profiling_overheads(record: RunRecord, arms: Mapping[str, Result]) -> list[ProfilingRow]:
    """The overhead of profiling, for each profiled arm."""
    return [
        ProfilingRow(
            arm=profile.arm,
            spread_k=profile.spread_k,
            profiled_ms=profile.profiled_ms,
            unprofiled_ms=median_ms,
            overhead_pct=None if median_ms is None else 100 * (profile.profiled_ms / median_ms - 1),
        )
        for profile, median_ms in _profiles(record, arms)
    ]


def busy_pct(record: RunRecord, arms: Mapping[str, Result], name: str) -> float | None:
    """The share of the step, in percent, in which the GPU works, for "engine", "dense" or "paged@1".

    None if the arm was not profiled or not timed.
    """
    for profile, median_ms in _profiles(record, arms):
        if median_ms is not None and _arm_name(profile) == name:
            return 100 * profile.busy_ms / _step_ms(profile, median_ms)
    return None


def _step_ms(profile: ProfileRecord, median_ms: float) -> float:
    """The time that the profile's busy time is a share of: the profiled prefill or the median of the
    others.
    """
    # A GPU at its power limit can clock higher in the profiled prefill than in those timed; compared with
    # their median it would look idle for the difference. The same goes where the profiler slows the host.
    return min(median_ms, profile.profiled_ms)


def _profiles(record: RunRecord, arms: Mapping[str, Result]) -> Iterator[tuple[ProfileRecord, float | None]]:
    for profile in record.profile or []:
        result = arms.get(_arm_name(profile))
        missing = result is None or why_not(result, "")
        yield profile, None if missing or result is None else float(np.median(result.samples_us)) / 1000


def _arm_name(profile: ProfileRecord) -> str:
    """As in contrasts.prefill_arms."""
    return f"paged@{profile.spread_k}" if profile.arm == "paged" else profile.arm
