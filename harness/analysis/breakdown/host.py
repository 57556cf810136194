"""Is the prefill bound by the GPU or by the host that launches its work?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.analysis import stats
from harness.analysis.breakdown.profiles import busy_pct
from harness.analysis.breakdown.samples import Row, why_not
from harness.runs.record import Result

HIDDEN_PCT, SHOWN_PCT = 25, 75  # of a planted delay: below the one host-bound, above the other GPU-bound
IDLE_PCT, BUSY_PCT = 60, 90  # of the step the GPU works


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
    engine, one_run = (busy_pct(record, arms, name) for name in ("engine", "paged@1"))
    found["gpu_busy_pct"] = busy = one_run if engine is None else engine
    passed, why_missing = _pass_through(record, arms)
    found |= passed
    return found | {"verdict": judged(busy, found["ci95_pct"]), "reason": _reason(found, why_missing)}


def judged(busy_pct: float | None, passed_ci95_pct: Sequence[float] | None) -> str:
    """The verdict: of a busy GPU at once, else by the planted delay if its interval tells, else by idling.

    An interval that takes in a limit does not tell; one above the first limit rules host-bound out.
    """
    if busy_pct is not None and busy_pct >= BUSY_PCT:
        return "GPU-bound"
    if passed_ci95_pct is not None and (told := _by_pass_through(*passed_ci95_pct)):
        return told
    idles = busy_pct is not None and busy_pct <= IDLE_PCT
    may_be_hidden = passed_ci95_pct is None or passed_ci95_pct[0] < HIDDEN_PCT
    return "host-bound" if idles and may_be_hidden else "unknown"


def _by_pass_through(low: float, high: float) -> str | None:
    """The verdict by the interval of the share that reached the latency, if it takes in no limit."""
    if high < HIDDEN_PCT:
        return "host-bound"
    if low > SHOWN_PCT:
        return "GPU-bound"
    return "partly host-bound" if low > HIDDEN_PCT and high < SHOWN_PCT else None


def _reason(found: Row, why_missing: str) -> str | None:
    """What else is to be known of the verdict."""
    busy, passed = found["gpu_busy_pct"], found["ci95_pct"]
    if passed is not None and busy is not None and busy >= BUSY_PCT:
        won_back = "part of a pause may be won back: a GPU at its power limit clocks higher after one"
        return won_back if passed[1] < 100 else None
    if passed is not None:
        if _by_pass_through(*passed):
            return None
        limits = [f"{limit}%" for limit in (HIDDEN_PCT, SHOWN_PCT) if passed[0] <= limit <= passed[1]]
        why_missing = f"the delay's interval takes in {' and '.join(limits)}"
    if busy is None:
        return f"{why_missing}; no prefill of engine or paged@1 was profiled"
    if judged(busy, passed) == "unknown":
        return f"{why_missing}, and the GPU's busy share does not decide"
    return f"by the GPU's busy share alone, {busy:.0f}% of the step: {why_missing}"


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
    added = stats.median_interval(added_ms)
    found["pass_through_pct"] = 100 * added.median / planted["ms"]
    shares = stats.quotient_interval(added.ci95, tuple(interval or (planted["ms"], planted["ms"])))
    if shares is None:
        return found, f"too few rounds of spin for an interval: {n}"
    found["ci95_pct"] = [100 * bound for bound in shares]
    return found, ""
