"""What a prefill's host time owes to the depth of Python's stack that it is called from.

    python benchmarks/stack_depth.py [--model gpt2] [--length 512] [--rounds 10] [--output FILE]

One engine; every round has a prefill of each kind from each depth in random order, all on the same blocks,
with harness.stack.with_room and without it:
untouched  vLLM as it is
steered    by way of the wrappers of the in-engine arms, which change nothing
Target: with room, the depth makes no difference.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Callable
from itertools import product
from typing import Any

from common import report

from harness import config, device, layout, models, prompt
from harness.engine.prefill_engine import PrefillEngine
from harness.stack import with_room
from patches.steering import Course

DEPTHS = range(0, 60, 3)  # frames more than this script has; a chunk holds some 40 of a model's


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gpt2")
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output")
    options = parser.parse_args()
    asked = {"model": options.model, "length": options.length}
    settings = config.resolve(config.load(config.RunConfig, asked), device.kind())
    source = models.materialise(models.inspect(options.model, length=options.length), seed=0)
    prompts, _ = prompt.token_ids(source, [options.length], None, 0)
    with PrefillEngine(settings, source) as engine:
        blocks = [layout.plan(settings.num_blocks(), 1, engine.free_block_ids())]
        courses = {"untouched": None, "steered": Course()}
        kinds = list(product((False, True), courses, DEPTHS))
        times: dict[Any, list[float]] = {kind: [] for kind in kinds}
        for n in range(1 + options.rounds):
            for room, name, depth in random.sample(kinds, len(kinds)):
                call = lambda course=courses[name]: engine.prefill(prompts, blocks, course).seconds  # noqa: E731
                seconds = from_depth(depth, with_room(call) if room else call)
                if n:  # the first round is the warm-up
                    times[room, name, depth].append(1e3 * seconds)
    medians = {kind: statistics.median(found) for kind, found in times.items()}
    report(f"stack depth, {options.model}/{options.length}", rows(medians), options.output)


def from_depth(depth: int, call: Callable[[], float]) -> float:
    """What `call` returns, called from so many frames deeper."""
    return from_depth(depth - 1, call) if depth else call()


def rows(medians: dict[Any, float]) -> list[dict[str, Any]]:
    """The medians' range over the depths, without room and with it, and that of what the wrappers cost."""
    made = []
    for room in (False, True):
        row: dict[str, Any] = {"room": "yes" if room else "no"}
        by_depth = {
            "untouched": [medians[room, "untouched", depth] for depth in DEPTHS],
            "steered": [medians[room, "steered", depth] for depth in DEPTHS],
            "steered - untouched": [
                medians[room, "steered", depth] - medians[room, "untouched", depth] for depth in DEPTHS
            ],
        }
        for name, found in by_depth.items():
            row |= {f"{name}, ms": f"{min(found):.2f} to {max(found):.2f}"}
        made.append(row)
    return made


if __name__ == "__main__":
    main()
