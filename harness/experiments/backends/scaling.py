"""How time grows with the batch size in `backends`, and where a line becomes compute-bound."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from harness.analysis import stats
from harness.experiments.backends.rows import BackendCell, ComputeBoundRow, ExponentRow
from harness.runs.summary import Index

# Where the work dominates, not its overhead, time grows at least as the batch size to this power.
COMPUTE_BOUND = 0.9
NOT_HERE = "not within these sizes: time grows more slowly up to the largest"
UNCLEAR = f"unclear: up to the largest batch size, the exponent's interval contains {COMPUTE_BOUND}"
NO_INTERVAL = "no interval: a median needs 6 samples"
NO_PAIR = "fewer than two batch sizes were measured in a single step"


def exponents(cells: Sequence[BackendCell]) -> list[ExponentRow]:
    """The exponent with which time grows from each batch size to the next, with its 95% interval.

    The interval covers all times within both medians' intervals; None if one of them is missing. Prefills
    that --max-num-batched-tokens splits are left out: every step has a cost, so their time grows in
    proportion however little a step computes.
    """
    rows, index = [], Index(cells)
    for backend, tokens in lines(cells):
        here = index.select(backend=backend, input_len=tokens)
        whole = [row for row in here if row.status == "ok" and row.n and not is_split(row)]
        for small, large in pairwise(whole):
            power, bounds = _power(small, large)
            rows.append(
                ExponentRow(
                    backend=backend,
                    input_len=tokens,
                    batch_size=small.batch_size,
                    next_batch_size=large.batch_size,
                    exponent=power,
                    ci95_exponent=bounds,
                )
            )
    return rows


def lines(cells: Sequence[BackendCell]) -> list[tuple[str, int]]:
    """(backend, input length) of all cells."""
    return list(dict.fromkeys((row.backend, row.input_len) for row in cells))


def is_split(row: BackendCell) -> bool:
    """Whether a cell's prompts take more than one step to prefill."""
    return (row.prefill_steps or 1) > 1


def _power(small: BackendCell, large: BackendCell) -> tuple[float, stats.Interval | None]:
    of_batch = math.log(large.batch_size / small.batch_size)
    assert small.median_us is not None
    assert large.median_us is not None
    power = math.log(large.median_us / small.median_us) / of_batch
    if not (small.ci95_us and large.ci95_us):
        return power, None
    (least, most), (low, high) = small.ci95_us, large.ci95_us
    return power, (math.log(low / most) / of_batch, math.log(high / least) / of_batch)


def compute_bound(cells: Sequence[BackendCell], powers: Sequence[ExponentRow]) -> list[ComputeBoundRow]:
    """For each line, the batch size from which on time certainly grows in proportion, or why there is none.

    Args:
        powers: of `exponents`.
    """
    rows, index = [], Index(powers)
    for backend, tokens in lines(cells):
        own = index.select(backend=backend, input_len=tokens)
        batch, reason = turning_point(own)
        rows.append(ComputeBoundRow(backend=backend, input_len=tokens, batch_size=batch, reason=reason))
    return rows


def turning_point(powers: Sequence[ExponentRow]) -> tuple[int | None, str | None]:
    """The smallest batch size from which on no exponent's interval reaches below COMPUTE_BOUND.

    None and the reason if the last interval does.

    Args:
        powers: one line's, by ascending batch size.
    """
    turns = None
    for row in reversed(powers):
        bounds = row.ci95_exponent
        if bounds is None or bounds[0] < COMPUTE_BOUND:
            break
        turns = row.batch_size
    return turns, None if turns else _why_none(powers)


def _why_none(powers: Sequence[ExponentRow]) -> str:
    if not powers:
        return NO_PAIR
    bounds = powers[-1].ci95_exponent
    if bounds is None:
        return NO_INTERVAL
    return NOT_HERE if bounds[1] < COMPUTE_BOUND else UNCLEAR
