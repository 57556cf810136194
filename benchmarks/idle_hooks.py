"""The cost of idle hooks for a prefill.

    python benchmarks/idle_hooks.py [--model gpt2] [--length 4096] [--pairs 100] [--output FILE]

One engine; every round has a prefill of each kind in random order, all on the same blocks: untouched vLLM as
it is, twice: the noise floor observed every attention call passes the hook that captures, which is idle
steered every attention call passes the wrappers of the in-engine arms, which change nothing; installed and
removed around each prefill, as in the main job kept steered the same, installed once for three prefills, the
last of which is timed vLLM's blocks as untouched, on the blocks that vLLM allocates Target: under 1%.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from common import inputs, prefill_parser, report

from harness import layout
from harness.analysis import stats
from harness.engine.engine import Engine
from harness.stack import with_room
from patches.steering import Override

UNTOUCHED = "untouched"


def main() -> None:
    parser = prefill_parser(__doc__, length=4096)
    parser.add_argument("--pairs", type=int, default=100)
    options = parser.parse_args()
    settings, source, prompts = inputs(options.model, options.length)
    with Engine(settings.engine(), source) as engine:
        blocks = [layout.plan(settings.num_blocks(), 1, engine.free_block_ids())]
        times = interleave(ways(engine, prompts, blocks), options.pairs)
    report(f"idle hooks, {options.model}/{options.length}", rows(times), options.output)


def ways(
    engine: Engine, prompts: Sequence[Sequence[int]], blocks: Sequence[Sequence[int]]
) -> dict[str, Callable[[], float]]:
    """Each kind of prefill, which returns the step's seconds."""
    as_is, rank = Override(), engine.ranks.only

    def time_observed() -> float:
        rank.hook.install()
        seconds = engine.prefill(prompts, blocks).seconds
        rank.hook.remove()
        return seconds

    def time_kept_steered() -> float:
        assert rank.steering is not None
        with rank.steering.on(as_is):
            return [engine.prefill(prompts, blocks).seconds for _ in range(3)][-1]

    return {
        UNTOUCHED: lambda: engine.prefill(prompts, blocks).seconds,
        "untouched again": lambda: engine.prefill(prompts, blocks).seconds,
        "vLLM's blocks": lambda: engine.prefill(prompts).seconds,
        "observed": time_observed,
        "steered": lambda: engine.prefill(prompts, blocks, as_is).seconds,
        "kept steered": time_kept_steered,
    }


def interleave(kinds: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Microseconds of each kind, all once a round in random order, after one run of each."""
    for run in kinds.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in kinds}
    order, shuffle = list(kinds), random.Random(0)
    for _ in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            times[name].append(1e6 * kinds[name]())
    return times


def rows(times: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
    """Each kind against the untouched one; intervals None below 6 rounds."""
    baseline_ms = stats.median_interval(times[UNTOUCHED]).median / 1e3
    found = []
    for name in [name for name in times if name != UNTOUCHED]:
        contrast = stats.paired_difference(*stats.pull_in([times[UNTOUCHED], times[name]]))
        low, high = contrast.ci95_pct or (None, None)
        found.append(
            {
                "contrast": f"{name} - {UNTOUCHED}",
                "baseline ms": baseline_ms,
                "difference %": contrast.delta_pct,
                "95% low": low,
                "95% high": high,
                "pairs": contrast.n,
            }
        )
    return found


if __name__ == "__main__":
    with_room(main)()
