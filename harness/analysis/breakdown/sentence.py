"""The breakdown in one quotable sentence."""

from __future__ import annotations

from collections.abc import Mapping

from harness import batch
from harness.analysis.breakdown.rows import Breakdown, HostBound, MeasuredRow
from harness.runs.schema import RunRecord
from harness.units import pluralise

COMPONENT_NAMES = {"fragmentation": "fragmentation", "paging": "paging", "cache_write": "cache write"}


def of(record: RunRecord, attribution: Breakdown) -> str:
    """What the paged KV cache costs and of which prefill; then what the host hides, and what a CPU cannot
    show.
    """
    measured = {row.component: row for row in attribution.measured}
    parts = ", ".join(f"{name} {_figure(measured[component])}" for component, name in COMPONENT_NAMES.items())
    verdict = _verdict(record, attribution, measured)
    sentences: list[str | None] = [f"{verdict}: {parts}."]
    percent = any(row.pct is not None for row in measured.values())
    if attribution.engine_ms is None and percent:
        sentences.append("Percentages are of paged@1: the engine's own blocks were not measured.")
    sentences.append(_host(attribution.host_bound))
    if record.device.kind == "cpu":
        floor = _floor(attribution.noise_floor_pct)
        sentences.append(f"On a CPU, effects smaller than {floor} cannot be detected.")
    return " ".join(filter(None, sentences))


def _verdict(record: RunRecord, attribution: Breakdown, measured: Mapping[str, MeasuredRow]) -> str:
    """The sentence, up to its colon."""
    prefill, total = _prefill(record), measured["total"]
    shares = [measured[name] for name in (*COMPONENT_NAMES, "total")]
    if all(row.ms is None for row in shares):
        return f"What the paged KV cache costs {prefill} was not measured"
    if all(row.ci95_ms is None for row in shares):
        return f"There are too few rounds to say what the paged KV cache costs {prefill}"
    if total.ci95_pct is None:
        return f"What the paged KV cache costs {prefill} was measured in part"
    if total.verdict in ("slower", "faster"):
        return f"The paged KV cache costs {_figure(total)} of {prefill}"
    return (
        f"The paged KV cache costs less than {_percent(max(total.ci95_pct[1], 0.01), 2)} (95%) of {prefill}"
    )


def _prefill(record: RunRecord) -> str:
    """Which prefill."""
    text = f"the prefill of {record.model.name}"
    text += f" at {batch.describe(record.prompts)}" if record.prompts else ""
    return f"{text} on {record.device.name}"


def _host(host_bound: HostBound) -> str | None:
    verdict, passed, bounds = host_bound.verdict, host_bound.pass_through_pct, host_bound.ci95_pct
    if verdict in ("unknown", "not applicable"):
        return None
    busy = "" if host_bound.gpu_busy_pct is None else f"{min(host_bound.gpu_busy_pct, 100):.0f}%"
    if passed is None or bounds is None:
        return f"The step is {verdict}, by the GPU's busy share alone: it works {busy} of the time."
    if host_bound.reason:  # the fate of the delay says nothing about the host
        return f"The step is {verdict}: the GPU works {busy} of the time."
    low, high = (_number(bound, 0) for bound in bounds)
    share = f"{_number(passed, 0)}% [{low}, {high}]"
    return f"The step is {verdict}: {share} of added GPU time reaches the latency."


def _floor(floor_pct: float | None) -> str:
    if floor_pct is None:
        return "the noise floor"
    return f"the noise floor of {_percent(floor_pct, 1 if floor_pct >= 0.1 else 2)}"


def _figure(row: MeasuredRow) -> str:
    """A component in percent with its interval, or the reason why there is none."""
    if row.ms is None:
        return f"not measured ({row.reason})"
    if row.pct is None:
        return f"{_number(row.ms, 3)} ms"
    if row.ci95_pct is None:
        return f"{_percent(row.pct)} (no interval: {pluralise(row.n, 'round')})"
    low, high = row.ci95_pct
    digits = 1 if high - low > 0.1 else 2
    signs = float(_number(low, digits)) < 0
    ends = [_number(end, digits, signs) for end in (low, high)]
    return f"{_percent(row.pct, digits)} [{ends[0]}, {ends[1]}]"


def _percent(value: float, digits: int = 1) -> str:
    return f"{_number(value, digits)}%"


def _number(value: float, digits: int, signed: bool = False) -> str:
    """Rounded; what rounds to zero has no sign."""
    if not round(value, digits):
        return f"{0:.{digits}f}"
    return f"{value:{'+' if signed else ''}.{digits}f}"
