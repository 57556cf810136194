"""Is the prefill bound by the GPU or by the host that launches its work?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.analysis import stats
from harness.analysis.breakdown.profiles import busy_pct
from harness.analysis.breakdown.rows import Bound, HostBound
from harness.analysis.breakdown.samples import why_not
from harness.runs.record import Result
from harness.runs.schema import PlantedDelay, RunRecord

HIDDEN_PCT, SHOWN_PCT = 25, 75  # of a planted delay: below the one host-bound, above the other GPU-bound
IDLE_PCT, BUSY_PCT = 60, 90  # of the step the GPU works


def host_bound(record: RunRecord, arms: Mapping[str, Result]) -> HostBound:
    """The verdict, from how busy the GPU is and from the share of a planted GPU delay that the prefill shows.

    A GPU that works all the time is what the step waits for. Otherwise a delay planted on it tells: it passes
    through to the latency in full if the step waits for the GPU, and not at all if the GPU idles anyway. On a
    busy GPU a delay says less: it saves power, and a GPU at its power limit then clocks higher (of 31 ms
    planted in a prefill of 487 ms that kept an H100 busy throughout, 59% reached the latency).
    """
    found = HostBound(
        verdict="not applicable",
        gpu_busy_pct=None,
        planted_ms=None,
        planted_ci95_ms=None,
        pass_through_pct=None,
        ci95_pct=None,
        reason="the prefill runs on a CPU: there is no GPU to wait for",
    )
    if record.device.kind == "cpu":
        return found
    engine, one_run = (busy_pct(record, arms, name) for name in ("engine", "paged@1"))
    found.gpu_busy_pct = one_run if engine is None else engine
    why_missing = _pass_through(found, record, arms)
    found.verdict = judged(found.gpu_busy_pct, found.ci95_pct)
    found.reason = _reason(found, why_missing)
    return found


def judged(busy_pct: float | None, passed_ci95_pct: Sequence[float] | None) -> Bound:
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


def _by_pass_through(low: float, high: float) -> Bound | None:
    """The verdict by the interval of the share that reached the latency, if it takes in no limit."""
    if high < HIDDEN_PCT:
        return "host-bound"
    if low > SHOWN_PCT:
        return "GPU-bound"
    return "partly host-bound" if low > HIDDEN_PCT and high < SHOWN_PCT else None


def _reason(found: HostBound, why_missing: str) -> str | None:
    """What else is to be known of the verdict."""
    busy, passed = found.gpu_busy_pct, found.ci95_pct
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


def _pass_through(found: HostBound, record: RunRecord, arms: Mapping[str, Result]) -> str:
    """Fill in the figures of the planted delay; why there is no interval, or ""."""
    planted = record.planted_ms or PlantedDelay()
    found.planted_ms, found.planted_ci95_ms = planted.ms, planted.ci95_ms
    reasons = [why_not(arms.get(name), name) for name in ("spin", "spin_0")]
    if any(reasons):
        return "; ".join(reason for reason in reasons if reason)
    if planted.ms is None or planted.ms <= 0 or (planted.ci95_ms and planted.ci95_ms[0] <= 0):
        return "how long the planted delay takes on the GPU is not known"
    spin, without = (np.asarray(arms[name].samples_us) for name in ("spin", "spin_0"))
    n = min(len(spin), len(without))
    added = stats.median_interval((spin[:n] - without[:n]) / 1000)  # of ms here
    found.pass_through_pct = 100 * added.median / planted.ms
    shares = stats.quotient_interval(added.ci95, planted.ci95_ms or (planted.ms, planted.ms))
    found.ci95_pct = stats.map_interval(shares, lambda bound: 100 * bound)
    return "" if shares else f"too few rounds of spin for an interval: {n}"
