"""Where the time of a profiled prefill went, set against the same arm's prefills that were not profiled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from harness.attribution.samples import Row, why_not
from harness.runs.record import Result

CATEGORIES = (
    *("attention", "cache write", "matrix products", "norms, activations, rope"),
    *("sampling", "copies", "other"),
)


def components(record: Mapping[str, Any], arms: Mapping[str, Result]) -> list[Row]:
    """Each profiled arm's categories, then what is left of its median prefill that was not profiled."""
    rows = []
    for profile, median_ms in _profiles(record, arms):
        times = dict.fromkeys(CATEGORIES, 0.0) | profile["categories"]
        rest = "GPU idle" if profile["device"] == "cuda" else "outside operators"
        times[rest] = None if median_ms is None else max(0.0, median_ms - profile["busy_ms"])
        rows += [
            {
                "arm": profile["arm"],
                "spread_k": profile["spread_k"],
                "category": category,
                "ms": ms,
                "pct": None if ms is None or median_ms is None else 100 * ms / median_ms,
            }
            for category, ms in times.items()
        ]
    return rows


def profiled(record: Mapping[str, Any], arms: Mapping[str, Result]) -> list[Row]:
    """What profiling itself cost each profiled arm."""
    return [
        {
            "arm": profile["arm"],
            "spread_k": profile["spread_k"],
            "profiled_ms": profile["profiled_ms"],
            "unprofiled_ms": median_ms,
            "overhead_pct": None if median_ms is None else 100 * (profile["profiled_ms"] / median_ms - 1),
        }
        for profile, median_ms in _profiles(record, arms)
    ]


def of_arm(record: Mapping[str, Any], arms: Mapping[str, Result], name: str) -> tuple[Row, float] | None:
    """The profile of "engine", "dense" or "paged@1" and its arm's median in ms; None if either is missing."""
    for profile, median_ms in _profiles(record, arms):
        if median_ms is not None and _arm_name(profile) == name:
            return profile, median_ms
    return None


def _profiles(record: Mapping[str, Any], arms: Mapping[str, Result]) -> Iterator[tuple[Row, float | None]]:
    for profile in record.get("profile") or []:
        result = arms.get(_arm_name(profile))
        missing = result is None or why_not(result, "")
        yield profile, None if missing or result is None else float(np.median(result.samples_us)) / 1000


def _arm_name(profile: Row) -> str:
    """As in contrasts.prefill_arms."""
    return f"paged@{profile['spread_k']}" if profile["arm"] == "paged" else str(profile["arm"])
