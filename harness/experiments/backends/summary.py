"""summary.json of `backends`: tokens/s of every cell, who wins, what two engines of one backend differ by."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.analysis import figures, stats
from harness.analysis.rows import find
from harness.experiments.backends import scaling as backends_scaling
from harness.report.rows import Row
from harness.runs.record import Result, latest

ALONE = {"gathered": "sdpa.math", "per_block": "per block"}  # arms of attention alone, as columns name them
AGAINST, AGAIN = "per block against gathered", "A/A"


def summarise(record: Row, results: Sequence[Result]) -> Row:
    """summary.json's lists: a row a measured cell, and what follows from several of them.

    `cells` (with `backend`, `tokens_per_s` and its interval), `winners` (the fastest of vLLM's backends
    against the second), `engines_again` (two engines of one backend, A/A), `compute_bound` (from which batch
    size on), `exponents` (how time grows from each batch size to the next) and `contrasts` (block by block
    against the dense buffer).
    """
    kept = latest(results)
    cells = [_cell(record, result) for result in kept if not result.control]
    cells.sort(key=lambda row: (row["batch_size"], row["input_len"]))
    twins = [_cell(record, result) for result in kept if result.control]
    again = [_again(cells, twin) for twin in twins if not twin["attention_alone"]]
    noise = {(row["batch_size"], row["input_len"]): stats.noise_factor(row["ci95_ratio"]) for row in again}
    winners = [_winner(cells, size, noise.get(size)) for size in sizes(cells)]
    exponents = backends_scaling.exponents(cells)
    return {
        "schema_version": 2,
        "status": record["status"],
        "phase": phase(record),
        "cells": cells,
        "winners": [row for row in winners if row],
        "engines_again": sorted(again, key=lambda row: (row["batch_size"], row["input_len"])),
        "compute_bound": backends_scaling.compute_bound(cells, exponents),
        "exponents": exponents,
        "contrasts": _contrasts(kept),
    }


def phase(record: Row) -> str:
    """ "prefill" or "decode"."""
    return "decode" if record["config"]["output_len"] else "prefill"


def sizes(cells: Sequence[Row]) -> list[tuple[int, int]]:
    """(batch size, input length) of all cells, ascending."""
    return sorted({(row["batch_size"], row["input_len"]) for row in cells})


def _cell(record: Row, result: Result) -> Row:
    row = figures.cell_row(result)
    alone = row["stage"] == "kernel"
    row |= {"backend": ALONE[row["arm"]] if alone else row["arm"], "attention_alone": alone}
    row["prefill_steps"] = None if alone or phase(record) == "decode" else _prefill_steps(record, row)
    low, high = row["ci95_us"] or (None, None)
    tokens = _tokens(record, row)
    row["tokens_per_s"] = _rate(tokens, row["median_us"])
    row["ci95_tokens_per_s"] = [_rate(tokens, high), _rate(tokens, low)] if low else None
    return row


def _prefill_steps(record: Row, row: Row) -> int:
    """Engine steps that the cell's prompts take."""
    most: int = record["config"]["max_num_batched_tokens"]
    tokens: int = row["batch_size"] * row["input_len"]
    return math.ceil(tokens / most)


def _tokens(record: Row, row: Row) -> float:
    """Tokens that are through the model, or through all its attention layers, in the time of one sample."""
    config, batch = record["config"], row["batch_size"]
    if row["attention_alone"]:
        each = 1 if config["output_len"] else row["input_len"]
        return float(batch * each / record["model"]["num_layers"])
    return float(batch * (config["output_len"] - 1 if config["output_len"] else row["input_len"]))


def _rate(tokens: float, microseconds: float | None) -> float | None:
    return 1e6 * tokens / microseconds if microseconds else None


def _again(cells: Sequence[Row], twin: Row) -> Row:
    """A cell in the second engine of its backend against the first; the noise floor of that size.

    Args:
        twin: the second engine's cell.
    """
    point: Row = {name: twin[name] for name in ("batch_size", "input_len", "backend")}
    first = find(cells, **point)
    ratio, bounds = None, None
    if first and first["status"] == twin["status"] == "ok" and first["n"] and twin["n"]:
        ratio, bounds = _quotient(twin, first)
    floor_pct = _floor_pct(stats.noise_factor(bounds))
    found = {"ratio": ratio, "ci95_ratio": bounds, "noise_floor_pct": floor_pct}
    return point | found | {name: twin[name] for name in ("n", "status", "reason")}


def _floor_pct(noise: float | None) -> float | None:
    """A factor that two engines of one backend differ by, as summary.json has it."""
    return noise and 100 * (noise - 1)


def _winner(cells: Sequence[Row], size: tuple[int, int], noise: float | None) -> Row | None:
    """The fastest engine of a cell and its speed-up over the second; None without two.

    Engines differ, too, by what two of one configuration do: the verdict is that of the interval widened by
    as much.

    Args:
        noise: factor that two engines of one backend differ by there at most; None: not known.
    """
    here = [row for row in cells if (row["batch_size"], row["input_len"]) == size]
    timed = [row for row in here if not row["attention_alone"] and row["status"] == "ok" and row["n"]]
    if len(timed) < 2:
        return None
    first, second = sorted(timed, key=lambda row: row["median_us"])[:2]
    speed_up, bounds = _quotient(second, first)
    # Of the second, which is slower where the winner is faster.
    verdict = stats.quotient_verdict(bounds, noise)
    return {
        "batch_size": size[0],
        "input_len": size[1],
        "winner": first["backend"],
        "tokens_per_s": first["tokens_per_s"],
        "second": second["backend"],
        "speed_up": speed_up,
        "ci95_speed_up": bounds,
        "noise_floor_pct": _floor_pct(noise),
        "verdict": "faster" if verdict == "slower" else verdict,
    }


def _quotient(over: Row, under: Row) -> tuple[float, stats.Interval | None]:
    """One cell's median over another's, and the quotients of all figures within both 95% intervals.

    They are of two engines, which run one after the other, so there are no pairs.
    """
    bounds = stats.quotient_interval(over["ci95_us"], under["ci95_us"])
    return over["median_us"] / under["median_us"], bounds


def _contrasts(results: Sequence[Result]) -> list[Row]:
    """Block by block against the dense buffer, pair by pair, and the dense buffer against itself (A/A)."""
    found = []
    alone = [result for result in results if result.cell.arm in ALONE]
    gathered = {r.series: r for r in alone if r.cell.arm == "gathered" and not r.control}
    for result in alone:
        baseline = gathered.get(result.series)
        if baseline and baseline is not result:
            name = AGAIN if result.control else AGAINST
            row = figures.contrast_row(name, baseline, result)
            found += [row] if row else []
    return sorted(found, key=lambda row: (row["batch_size"], row["input_len"]))
