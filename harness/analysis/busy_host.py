"""Verdicts that are withheld because other processes kept the host busy."""

from __future__ import annotations

from harness.analysis.breakdown.rows import Breakdown, MeasuredRow
from harness.analysis.families import rows_with
from harness.runs.schema import HostLoad, RunRecord
from harness.runs.stored import Stored
from harness.runs.summary import Reason
from harness.units import pluralise

OTHER_SHARE, FEWEST_CPUS = 0.1, 0.2  # of all CPUs, and CPUs: what others may use without a word
STEAL_PCT = 2.0
MHZ_FALL = 0.1
VERDICTS = ("slower", "faster", "same")


def why_busy(load: HostLoad | None) -> str | None:
    """Why the host counts as busy, in a few words; None if it does not, or nothing is known."""
    if load is None:
        return None
    reasons = []
    limit = max(FEWEST_CPUS, OTHER_SHARE * load.cpus)
    if load.other_cpus is not None and load.other_cpus > limit:
        reasons.append(f"other processes used {load.other_cpus:.1f} of {load.cpus} CPUs")
    if load.steal_pct is not None and load.steal_pct > STEAL_PCT:
        reasons.append(f"{load.steal_pct:.1f}% of CPU time went to other virtual machines")
    return "; ".join(reasons) or None


def describe(load: HostLoad) -> str | None:
    """One line about what may have disturbed the run; None if nothing was seen."""
    told = [why_busy(load)]
    if load.mhz_before and load.mhz_after and load.mhz_after < (1 - MHZ_FALL) * load.mhz_before:
        told.append(f"the CPUs' clock fell from {load.mhz_before:.0f} to {load.mhz_after:.0f} MHz")
    if load.gpu_processes_before:
        others = pluralise(load.gpu_processes_before, "process")
        told.append(f"before the run the GPUs had {others} of others")
    found = "; ".join(filter(None, told))
    return f"noise from elsewhere: {found}" if found else None


def withhold(summary: Stored, record: RunRecord) -> None:
    """Make verdicts unclear that a busy host may have made: all on a CPU, those of prefills that wait for
    their host.
    """
    why = why_busy(record.host_load)
    on_cpu = record.device.kind == "cpu"
    if why is None or not (on_cpu or _waits_for_host(summary)):
        return
    for _, _, row in rows_with(summary, "verdict", "reason_code"):
        of_kernel = getattr(row, "kernel", "prefill") != "prefill"
        if row.verdict not in VERDICTS or (of_kernel and not on_cpu):
            continue
        row.verdict, row.reason_code = "unclear", Reason.BUSY_HOST
        if isinstance(row, MeasuredRow) and why not in (row.reason or ""):
            row.reason = "; ".join(filter(None, [row.reason, f"withheld: {why}"]))


def _waits_for_host(summary: Stored) -> bool:
    breakdowns = [each for _, each in summary if isinstance(each, Breakdown)]
    return any(each.host_bound.verdict in ("host-bound", "partly host-bound") for each in breakdowns)
