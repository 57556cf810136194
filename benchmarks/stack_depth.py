"""How a prefill's host time depends on the depth of Python's stack.

    python benchmarks/stack_depth.py [--model gpt2] [--length 512] [--rounds 10] [--output FILE]

One engine; rounds in turns with harness.stack.with_room and without it. A round has, in random order and all
on the same blocks,
the control  vLLM untouched from one depth, as often as there are depths: what medians differ by anyway
untouched    vLLM untouched from each depth
steered      through the wrappers of the in-engine arms, which change nothing, from each depth
Target: with room the depths differ by no more than the control does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import product
from statistics import median
from typing import Any

from common import inputs, prefill_parser, report

from harness import layout
from harness.engine.engine import Engine
from harness.stack import with_room
from patches.steering import Override

DEPTHS = range(0, 60, 3)  # frames on top of this script's; a chunk holds some 40 of a model's
CONTROL, UNTOUCHED, STEERED = "control", "untouched", "steered"
Times = dict[tuple[str, int], list[float]]  # ms, by kind and depth


def main() -> None:
    parser = prefill_parser(__doc__, length=512)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    settings, source, prompts = inputs(options.model, options.length)
    found: dict[bool, Times] = {False: {}, True: {}}
    with Engine(settings.engine(), source) as engine:
        blocks = [layout.plan(settings.num_blocks(), 1, engine.free_block_ids())]

        def prefill(override: Override | None) -> float:
            return 1e3 * engine.prefill(prompts, blocks, override).seconds

        one_round(prefill, {})
        for _ in range(options.rounds):
            one_round(prefill, found[False])
            with_room(one_round)(prefill, found[True])
    report(f"stack depth, {options.model}/{options.length}", rows(found), options.output)


def one_round(prefill: Callable[[Override | None], float], times: Times) -> None:
    """A prefill of each kind from each depth, after one that is not timed."""
    prefill(None)
    kinds = list(product((CONTROL, UNTOUCHED, STEERED), DEPTHS))
    for name, depth in random.sample(kinds, len(kinds)):
        override = Override() if name == STEERED else None
        took = from_depth(0 if name == CONTROL else depth, lambda override=override: prefill(override))  # type: ignore[misc]
        times.setdefault((name, depth), []).append(took)


def from_depth(depth: int, call: Callable[[], float]) -> float:
    """Call `call` from `depth` frames deeper and return its result."""
    return from_depth(depth - 1, call) if depth else call()


def rows(found: dict[bool, Times]) -> list[dict[str, Any]]:
    """The medians' range over the depths, and that of the median difference that the wrappers make."""
    made = []
    for room, times in found.items():
        untouched, steered = ([times[name, depth] for depth in DEPTHS] for name in (UNTOUCHED, STEERED))
        paired = [
            [b - a for a, b in zip(*pair, strict=True)] for pair in zip(untouched, steered, strict=True)
        ]
        made.append(
            {
                "room": "yes" if room else "no",
                "one depth, ms": format_range([times[CONTROL, depth] for depth in DEPTHS]),
                f"{len(DEPTHS)} depths, ms": format_range(untouched),
                "steered, ms": format_range(steered),
                "steered - untouched, ms": format_range(paired),
            }
        )
    return made


def format_range(samples: Sequence[Sequence[float]]) -> str:
    """The smallest and the largest median."""
    medians = sorted(map(median, samples))
    return f"{medians[0]:.2f} to {medians[-1]:.2f}"


if __name__ == "__main__":
    main()
