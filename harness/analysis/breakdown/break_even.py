"""After how many uses, and from which length on, gathering a fragmented cache first pays off."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from harness.analysis import stats, verdicts
from harness.analysis.breakdown.rows import BreakEvenRow
from harness.analysis.breakdown.samples import Array, Replayed
from harness.runs.schema import RunRecord


@dataclass(frozen=True)
class Choice:
    """Attention on the blocks, or a gather and then attention on its contiguous copy; arms by name."""

    gather: str
    paged: str
    contiguous: str


CHOICES = (
    Choice("gather_kv", "paged", "compact"),
    Choice("gather_kv", "flash_attn_with_kvcache fragmented", "flash_attn_func contiguous"),
    Choice("gather_qkv", "flash_attn_with_kvcache fragmented", "flash_attn_qkvpacked_func contiguous"),
)


def rows(record: RunRecord, replayed: Replayed) -> list[BreakEvenRow]:
    """One row for each pair of kernels that was tried, mean over the layers that have all three arms.

    saving = paged - contiguous, a call; reuses = gather / saving: the number of attention calls on one
    gathered copy at which gathering first breaks even. length_for_one_use, in tokens, is the length at which
    one call is enough, if the gather is linear in the length and the kernels' difference quadratic, as for
    causal attention without a window: this length times reuses. Both are assumptions, not measurements.
    `block_size` is the paged kernel's. The interval of reuses holds the quotients of both medians' intervals.
    """
    return [_row(record, replayed, choice) for choice in CHOICES if replayed.has(choice.contiguous)]


def _row(record: RunRecord, replayed: Replayed, choice: Choice) -> BreakEvenRow:
    means = replayed.average([choice.contiguous, choice.paged, choice.gather])
    contiguous, paged, gather = means.values()
    saving = paged.values - contiguous.values
    kernel, blocks = replayed.first(choice.contiguous), replayed.first(choice.paged)
    assert kernel is not None
    row = BreakEvenRow(
        kernel=kernel.cell.kernel,
        provider=kernel.cell.provider,
        block_size=(blocks or kernel).cell.block_size,
        gather_us=gather.median,
        paged_us=paged.median,
        contiguous_us=contiguous.median,
        saving_us=None,
        saving_ci95_us=None,
        reuses=None,
        reuses_ci95=None,
        length_for_one_use=None,
        pays="unclear",
        reason=contiguous.reason,
    )
    if not len(saving):
        return row
    mean = stats.mean(saving)
    row.saving_us, row.saving_ci95_us = mean.value, mean.ci95
    undecided = _decide(row, gather.values, saving, float(np.median(paged.values)))
    reasons = [undecided, contiguous.reason, _other_blocks(replayed, choice)]
    if row.reuses is not None:
        row.length_for_one_use, assumed = _length(record, row.reuses)
        reasons.append(assumed)
    row.reason = "; ".join(filter(None, reasons)) or None
    return row


def _decide(row: BreakEvenRow, gather: Array, saving: Array, paged_us: float) -> str | None:
    """Fill in reuses, its interval and `pays`; returns why they cannot be known."""
    interval = row.saving_ci95_us
    if interval is None:
        return f"too few rounds for an interval: {len(saving)}"
    low, high = interval
    if low <= 0:
        share_pct = (100 * low / paged_us, 100 * high / paged_us)
        if high <= 0 or verdicts.judge(share_pct).verdict == "same":
            row.pays = "never"
            return "the contiguous kernel saves nothing"
        return "whether the contiguous kernel saves anything is unclear: the interval includes 0"
    bounds = stats.quotient_interval(stats.median_interval(gather).ci95, interval)
    assert bounds is not None  # the saving is above zero, and the gather has as many rounds
    row.reuses, row.reuses_ci95 = float(np.median(gather) / np.mean(saving)), bounds
    row.pays = _pays(bounds)
    return None


def _pays(bounds: stats.Interval) -> str:
    """After how many uses gathering certainly pays off."""
    low, high = bounds
    if high <= 1:
        return "on the first use"
    return "unclear" if low <= 1 else f"from {math.ceil(high)} uses"


def _other_blocks(replayed: Replayed, choice: Choice) -> str | None:
    """A remark where the gather reads blocks of another size than the paged kernel."""
    gather, paged = replayed.first(choice.gather), replayed.first(choice.paged)
    if gather is None or paged is None or gather.cell.block_size == paged.cell.block_size:
        return None
    return f"the gather is from {gather.cell.block_size}-token blocks"


def _length(record: RunRecord, reuses: float) -> tuple[int | None, str | None]:
    """length_for_one_use, and why it is not known."""
    lengths = {request.length for request in record.prompts}
    if record.layer_windows:
        return None, "no length: under a sliding window the saving is not quadratic in the length"
    if not lengths:
        return None, "no length: the prompt's length is not known"
    if len(lengths) > 1:
        return None, "no length: the prompts differ in length"
    return round(lengths.pop() * reuses), None
