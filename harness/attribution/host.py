"""Is the prefill bound by the GPU or by the host that launches its work?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness import stats
from harness.attribution.profiles import of_arm
from harness.attribution.samples import (
    Array,
    Row,
    enough,
    generator,
    percentile_interval,
    resampled_medians,
    why_not,
)
from harness.runs.record import Result

HIDDEN_PCT, SHOWN_PCT = 25, 75  # of a planted delay: below the one host-bound, above the other GPU-bound
IDLE_PCT, BUSY_PCT = 60, 90  # of the step the GPU works
NORMAL_95 = 1.959964  # standard deviations from the mean to either end of a 95% interval


def host_bound(record: Mapping[str, Any], arms: Mapping[str, Result]) -> Row:
    """The verdict, from how busy the GPU is and from the share of a planted GPU delay that the prefill shows.

    A GPU that works all the time is what the step waits for. Otherwise a delay planted on it tells: it passes
    through to the latency in full if the step waits for the GPU, and not at all if the GPU idles anyway. On a
    busy GPU a delay says less: it saves power, and a GPU at its power limit then clocks higher (of 31 ms
    planted in a prefill of 487 ms that kept an H100 busy throughout, 59% reached the latency).
    """
    found: Row = {
        "verdict": "unknown",
        "gpu_busy_pct": None,
        "planted_ms": None,
        "planted_ci95_ms": None,
        "pass_through_pct": None,
        "ci95_pct": None,
        "reason": None,
    }
    kind = record.get("device", {}).get("kind")
    if kind == "cpu":
        reason = "the prefill runs on a CPU: there is no GPU to wait for"
        return found | {"verdict": "not applicable", "reason": reason}
    found["gpu_busy_pct"] = busy = _gpu_busy_pct(record, arms)
    passed, why_missing = _pass_through(record, arms)
    found |= passed
    if found["ci95_pct"] is not None and busy is not None and busy >= BUSY_PCT:
        reason = "part of a pause may be won back: a GPU at its power limit clocks higher after one"
        return found | {"verdict": "GPU-bound", "reason": reason if found["ci95_pct"][1] < 100 else None}
    if found["ci95_pct"] is not None:
        return found | {"verdict": _by_pass_through(found["ci95_pct"])}
    if busy is None:
        return found | {"reason": f"{why_missing}; no prefill of engine or paged@1 was profiled"}
    return found | {
        "verdict": _by_busy_share(busy),
        "reason": f"by the GPU's busy share alone, {busy:.0f}% of the step: {why_missing}",
    }


def _gpu_busy_pct(record: Mapping[str, Any], arms: Mapping[str, Result]) -> float | None:
    """The GPU's busy time in the profiled prefill, of the median of those that were not profiled."""
    found = of_arm(record, arms, "engine") or of_arm(record, arms, "paged@1")
    return None if found is None else 100 * float(found[0]["busy_ms"]) / found[1]


def _pass_through(record: Mapping[str, Any], arms: Mapping[str, Result]) -> tuple[Row, str]:
    """The figures of the planted delay, and why there is no interval, if there is none."""
    planted = record.get("planted_ms") or {}
    interval = planted.get("ci95_ms")
    found: Row = {"planted_ms": planted.get("ms"), "planted_ci95_ms": interval}
    reasons = [why_not(arms.get(name), name) for name in ("spin", "spin_0")]
    if any(reasons):
        return found, "; ".join(reason for reason in reasons if reason)
    if (planted.get("ms") or 0) <= 0 or (interval and interval[0] <= 0):
        return found, "how long the planted delay takes on the GPU is not known"
    spin, without = (np.asarray(arms[name].samples_us) for name in ("spin", "spin_0"))
    n = min(len(spin), len(without))
    added_ms = (spin[:n] - without[:n]) / 1000
    found["pass_through_pct"] = 100 * float(np.median(added_ms)) / planted["ms"]
    if not enough(added_ms):
        return found, f"too few rounds of spin for an interval: {n}"
    found["ci95_pct"] = list(_ratio_interval(added_ms, planted["ms"], interval))
    return found, ""


def _ratio_interval(added_ms: Array, planted_ms: float, planted_ci95: list[float] | None) -> stats.Interval:
    """In percent: the bootstrap's of the added time, over a normal of the planted time's own interval."""
    rng = generator()
    (medians,) = resampled_medians([added_ms], rng)
    low, high = planted_ci95 or (planted_ms, planted_ms)
    deviation = (high - low) / (2 * NORMAL_95)
    return percentile_interval(100 * medians / rng.normal(planted_ms, deviation, len(medians)))


def _by_pass_through(ci95_pct: list[float]) -> str:
    low, high = ci95_pct
    if high < HIDDEN_PCT:
        return "host-bound"
    return "GPU-bound" if low > SHOWN_PCT else "partly host-bound"


def _by_busy_share(busy_pct: float) -> str:
    if busy_pct >= BUSY_PCT:
        return "GPU-bound"
    return "host-bound" if busy_pct <= IDLE_PCT else "unknown"
