"""Is the prefill bound by the GPU or by the host that launches its work?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.analysis import stats
from harness.analysis.breakdown.profiles import busy_pct
from harness.analysis.breakdown.rows import Bound, HostBound
from harness.analysis.breakdown.samples import why_not
from harness.runs.record import Result
from harness.runs.schema import InjectedDelay, RunRecord

HIDDEN_PCT, SHOWN_PCT = (
    25,
    75,
)  # pass-through of an injected delay: host-bound below the first, GPU-bound above the second
IDLE_PCT, BUSY_PCT = 60, 90  # of the step the GPU works


def host_bound(record: RunRecord, arms: Mapping[str, Result]) -> HostBound:
    """The verdict, from the share of an injected GPU delay that reaches the latency, else from how busy the
    GPU is.

    A delay reaches the latency in full if the step waits for the GPU, and not at all if the GPU idles anyway.
    It also saves power, and a GPU at its power limit then clocks higher, which hides a part of it: prefills
    with and without the delay are compared at one clock. Where their clocks are not known, a delay that seems
    to be hidden from a GPU that is always busy decides nothing.
    """
    row = HostBound(
        verdict="not applicable",
        gpu_busy_pct=None,
        injected_ms=None,
        injected_ci95_ms=None,
        pass_through_pct=None,
        ci95_pct=None,
        reason="the prefill runs on a CPU: there is no GPU to wait for",
    )
    if record.device.kind == "cpu":
        return row
    engine, one_segment = (busy_pct(record, arms, name) for name in ("engine", "paged@1"))
    row.gpu_busy_pct = one_segment if engine is None else engine
    why_missing = _pass_through(row, record, arms)
    at_one_clock = _clock_ratios(arms) is not None
    row.verdict = judge(row.gpu_busy_pct, row.ci95_pct, at_one_clock)
    row.reason = _reason(row, why_missing, at_one_clock)
    return row


def judge(
    busy_pct: float | None, passed_ci95_pct: Sequence[float] | None, at_one_clock: bool = True
) -> Bound:
    """The verdict: by the injected delay if its interval decides, else by the GPU's busy share.

    An interval that contains a limit does not decide; one above the first limit rules out host-bound.

    Args:
        at_one_clock: whether the delay was measured at one clock.
    """
    by_delay = _by_pass_through(*passed_ci95_pct) if passed_ci95_pct else None
    if by_delay and (at_one_clock or by_delay == "GPU-bound" or not _always_busy(busy_pct)):
        return by_delay
    if _always_busy(busy_pct):
        return "GPU-bound"
    idles = busy_pct is not None and busy_pct <= IDLE_PCT
    may_be_hidden = passed_ci95_pct is None or passed_ci95_pct[0] < HIDDEN_PCT
    return "host-bound" if idles and may_be_hidden else "unknown"


def _always_busy(busy_pct: float | None) -> bool:
    return busy_pct is not None and busy_pct >= BUSY_PCT


def _by_pass_through(low: float, high: float) -> Bound | None:
    """The verdict by the interval of the share that reached the latency, if it contains no limit."""
    if high < HIDDEN_PCT:
        return "host-bound"
    if low > SHOWN_PCT:
        return "GPU-bound"
    return "partly host-bound" if low > HIDDEN_PCT and high < SHOWN_PCT else None


def _reason(row: HostBound, why_missing: str, at_one_clock: bool) -> str | None:
    """A qualification of the verdict, or None: the delay decided it."""
    busy, passed = row.gpu_busy_pct, row.ci95_pct
    if passed is not None:
        by_delay = _by_pass_through(*passed)
        if by_delay == row.verdict:
            return None
        limits = [f"{limit}%" for limit in (HIDDEN_PCT, SHOWN_PCT) if passed[0] <= limit <= passed[1]]
        why_missing = f"the delay's interval contains {' and '.join(limits)}"
        if by_delay and not at_one_clock:
            why_missing = (
                "part of the delay may be hidden: a GPU at its power limit clocks higher after a pause"
            )
    if busy is None:
        return f"{why_missing}; no prefill of engine or paged@1 was profiled"
    if row.verdict == "unknown":
        return f"{why_missing}, and the GPU's busy share is inconclusive"
    return f"by the GPU's busy share alone, {busy:.0f}% of the step: {why_missing}"


def _pass_through(host_bound: HostBound, record: RunRecord, arms: Mapping[str, Result]) -> str:
    """Fill in the figures of the injected delay; returns why there is no interval, or ""."""
    injected = record.injected_ms or InjectedDelay()
    host_bound.injected_ms, host_bound.injected_ci95_ms = injected.ms, injected.ci95_ms
    reasons = [why_not(arms.get(name), name) for name in ("spin", "spin_0")]
    if any(reasons):
        return "; ".join(reason for reason in reasons if reason)
    if injected.ms is None or injected.ms <= 0 or (injected.ci95_ms and injected.ci95_ms[0] <= 0):
        return "the injected delay's time on the GPU is not known"
    spin, without = (np.asarray(arms[name].samples_us) for name in ("spin", "spin_0"))
    n = min(len(spin), len(without))
    ratios = _clock_ratios(arms)
    at_spins_clock = without[:n] if ratios is None else without[:n] * ratios[:n]
    added = stats.mean((spin[:n] - at_spins_clock) / 1000)  # of ms here
    host_bound.pass_through_pct = 100 * added.value / injected.ms
    shares = stats.quotient_interval(added.ci95, injected.ci95_ms or (injected.ms, injected.ms))
    host_bound.ci95_pct = stats.map_interval(shares, lambda bound: 100 * bound)
    return "" if shares else f"too few rounds of spin for an interval: {n}"


def _clock_ratios(arms: Mapping[str, Result]) -> stats.Array | None:
    """Round by round, the clock without the delay over that with it; None: not known of each prefill."""
    clocks = []
    for arm in map(arms.get, ("spin_0", "spin")):
        if arm is None or len(arm.clock_mhz) != len(arm.samples_us) or not arm.clock_mhz:
            return None
        clocks.append(np.asarray(arm.clock_mhz, dtype=float))
    without, spin = clocks
    if np.array_equal(without, spin) and len(set(without)) > 1:  # one reading a round, of all its arms
        return None
    n = min(map(len, clocks))
    ratios: stats.Array = without[:n] / spin[:n]
    return ratios
