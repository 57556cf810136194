"""summary.json of `backends`: tokens/s of every cell, the winners, and how much two engines of one backend
differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from harness.analysis import figures, stats, verdicts
from harness.experiments.backends import scaling as backends_scaling
from harness.experiments.backends.rows import (
    AgainRow,
    BackendCell,
    BackendContrast,
    BackendsSummary,
    WinnerRow,
)
from harness.runs.record import Result, latest
from harness.runs.schema import RunRecord
from harness.runs.summary import Index

ALONE = {"gathered": "sdpa.math", "per_block": "per block"}  # arms of attention alone, as columns name them
AGAINST, AGAIN = "per block against gathered", "A/A"


def summarise(record: RunRecord, results: Sequence[Result]) -> BackendsSummary:
    """summary.json's lists: a row for each measured cell, and what follows from several cells.

    `cells` (with `backend`, `tokens_per_s` and its interval), `winners` (the fastest of vLLM's backends
    against the second), `engines_again` (two engines of one backend, A/A), `compute_bound` (from which batch
    size on), `exponents` (how time grows from each batch size to the next) and `contrasts` (block by block
    against the dense buffer).
    """
    final = latest(results)
    cells = sorted((_cell(record, result) for result in final if not result.control), key=_size)
    twins = [_cell(record, result) for result in final if result.control]
    index = Index(cells)
    again = sorted((_again(index, twin) for twin in twins if not twin.attention_alone), key=_size)
    noise = {_size(row): stats.noise_factor(row.ci95_ratio) for row in again}
    winners = [_winner(index, size, noise.get(size)) for size in sizes(cells)]
    exponents = backends_scaling.exponents(cells)
    return BackendsSummary(
        schema_version=2,
        status=record.status,
        phase=phase(record),
        cells=cells,
        winners=[row for row in winners if row],
        engines_again=again,
        compute_bound=backends_scaling.compute_bound(cells, exponents),
        exponents=exponents,
        contrasts=_contrasts(final),
    )


def _size(row: BackendCell | AgainRow | BackendContrast) -> tuple[int, int]:
    return row.batch_size, row.input_len


def phase(record: RunRecord) -> Literal["prefill", "decode"]:
    """What was timed."""
    return "decode" if record.config["output_len"] else "prefill"


def sizes(cells: Sequence[BackendCell]) -> list[tuple[int, int]]:
    """(batch size, input length) of all cells, ascending."""
    return sorted({_size(row) for row in cells})


def _cell(record: RunRecord, result: Result) -> BackendCell:
    fields = figures.cell_row(result)
    alone = fields["stage"] == "kernel"
    batch, length = fields["batch_size"], fields["input_len"]
    low, high = fields["ci95_us"] or (None, None)
    tokens = _tokens(record, batch, length, alone)
    one_step = alone or phase(record) == "decode"
    fast, slow = _rate(tokens, low), _rate(tokens, high)
    return BackendCell(
        **fields,
        backend=ALONE[fields["arm"]] if alone else fields["arm"],
        attention_alone=alone,
        prefill_steps=None if one_step else _prefill_steps(record, batch * length),
        tokens_per_s=_rate(tokens, fields["median_us"]),
        ci95_tokens_per_s=(slow, fast) if slow is not None and fast is not None else None,
    )


def _prefill_steps(record: RunRecord, tokens: int) -> int:
    """Engine steps that it takes to prefill this many tokens."""
    most: int = record.config["max_num_batched_tokens"]
    return math.ceil(tokens / most)


def _tokens(record: RunRecord, batch: int, length: int, alone: bool) -> float:
    """Tokens that are throughput of the model, or of all its attention layers, in the time of one sample."""
    output_len = record.config["output_len"]
    if alone:
        assert record.model.num_layers is not None
        return float(batch * (1 if output_len else length) / record.model.num_layers)
    return float(batch * (output_len - 1 if output_len else length))


def _rate(tokens: float, microseconds: float | None) -> float | None:
    return 1e6 * tokens / microseconds if microseconds else None


def _again(cells: Index[BackendCell], twin: BackendCell) -> AgainRow:
    """A cell in its backend's second engine against the first: the noise floor at that size.

    Args:
        twin: the second engine's cell.
    """
    first = cells.find(batch_size=twin.batch_size, input_len=twin.input_len, backend=twin.backend)
    ratio, bounds = None, None
    if first and first.status == twin.status == "ok" and first.n and twin.n:
        ratio, bounds = _quotient(twin, first)
    return AgainRow(
        batch_size=twin.batch_size,
        input_len=twin.input_len,
        backend=twin.backend,
        ratio=ratio,
        ci95_ratio=bounds,
        noise_floor_pct=_floor_pct(stats.noise_factor(bounds)),
        n=twin.n,
        status=twin.status,
        reason=twin.reason,
    )


def _floor_pct(noise: float | None) -> float | None:
    """A factor between two engines of one backend as summary.json's noise floor, in percent."""
    return noise and 100 * (noise - 1)


def _winner(cells: Index[BackendCell], size: tuple[int, int], noise: float | None) -> WinnerRow | None:
    """The fastest engine of a cell and its speed-up over the runner-up; None without two.

    Two engines differ even in one configuration, so the verdict uses the interval widened by the noise floor.

    Args:
        noise: largest factor between two engines of one backend at this size; None: not known.
    """
    timed = [
        (row.median_us, n, row)
        for n, row in enumerate(cells.select(batch_size=size[0], input_len=size[1]))
        if not row.attention_alone and row.status == "ok" and row.median_us
    ]
    if len(timed) < 2:
        return None
    (_, _, first), (_, _, second) = sorted(timed)[:2]
    assert first.tokens_per_s is not None
    speed_up, bounds = _quotient(second, first)
    # The verdict on the runner-up: it is slower where the winner is faster.
    verdict, reason = verdicts.judge_quotient(bounds, noise)
    return WinnerRow(
        batch_size=size[0],
        input_len=size[1],
        winner=first.backend,
        tokens_per_s=first.tokens_per_s,
        second=second.backend,
        speed_up=speed_up,
        ci95_speed_up=bounds,
        noise_floor_pct=_floor_pct(noise),
        verdict="faster" if verdict == "slower" else verdict,
        reason_code=reason,
    )


def _quotient(over: BackendCell, under: BackendCell) -> tuple[float, stats.Interval | None]:
    """The quotient of two cells' medians, and the interval of quotients within both 95% intervals.

    The cells are of two engines that run one after the other, so there are no pairs.
    """
    assert over.median_us is not None
    assert under.median_us is not None
    return over.median_us / under.median_us, stats.quotient_interval(over.ci95_us, under.ci95_us)


def _contrasts(results: Sequence[Result]) -> list[BackendContrast]:
    """Block by block against the dense buffer, pair by pair, and the dense buffer against itself (A/A)."""
    rows = []
    alone = [result for result in results if result.cell.arm in ALONE]
    gathered = {r.series: r for r in alone if r.cell.arm == "gathered" and not r.control}
    for result in alone:
        baseline = gathered.get(result.series)
        if baseline and baseline is not result:
            name = AGAIN if result.control else AGAINST
            if fields := figures.contrast_row(name, baseline, result):
                rows.append(BackendContrast(**fields))
    return sorted(rows, key=_size)
