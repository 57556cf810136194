"""What the hooks cost a prefill while they change nothing.

    python benchmarks/idle_hooks.py [--model gpt2] [--length 4096] [--pairs 100] [--output FILE]

One engine; every round has a prefill of each kind in random order, all on the same blocks:
untouched     vLLM as it is, twice: the noise floor
observed      every attention call passes the tap that captures, which is idle
steered       every attention call passes the wrappers of the in-engine arms, which change nothing; put on
              and taken off around each prefill, as in the main job
kept steered  the same, put on once for three prefills, of which the last is timed
vLLM's blocks as untouched, on the blocks that vLLM allocates
Target: under 1%.
"""

from __future__ import annotations

import argparse
import random

from common import report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gpt2")
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--output")
    options = parser.parse_args()

    from harness import config, device, layout, models, prompt, stats
    from harness.engine import PrefillEngine
    from patches.steering import Course

    settings = config.resolve(
        config.load(config.RunConfig, {"model": options.model, "length": options.length}), device.kind()
    )
    source = models.materialise(models.inspect(options.model, length=options.length), seed=0)
    prompts, _ = prompt.token_ids(source, [options.length], None, 0)
    with PrefillEngine(settings, source) as engine:
        blocks = [layout.plan(settings.num_blocks(), 1, engine.free_block_ids())]

        as_is, rank = Course(), engine.ranks.only

        def observed() -> float:
            rank.tap.install()
            seconds = engine.prefill(prompts, blocks).seconds
            rank.tap.remove()
            return seconds

        def kept() -> float:
            assert rank.steering is not None
            with rank.steering.on(as_is):
                return [engine.prefill(prompts, blocks).seconds for _ in range(3)][-1]

        kinds = {
            "untouched": lambda: engine.prefill(prompts, blocks).seconds,
            "untouched again": lambda: engine.prefill(prompts, blocks).seconds,
            "vLLM's blocks": lambda: engine.prefill(prompts).seconds,
            "observed": observed,
            "steered": lambda: engine.prefill(prompts, blocks, as_is).seconds,
            "kept steered": kept,
        }
        for run in kinds.values():
            run()
        times: dict[str, list[float]] = {name: [] for name in kinds}
        order, shuffle = list(kinds), random.Random(0)
        for _ in range(options.pairs):
            shuffle.shuffle(order)
            for name in order:
                times[name].append(1e6 * kinds[name]())
    rows = []
    for name in [name for name in kinds if name != "untouched"]:
        found = stats.paired_difference(times["untouched"], times[name])
        rows.append(
            {
                "contrast": f"{name} - untouched",
                "baseline ms": stats.median_interval(times["untouched"]).median_us / 1e3,
                "difference %": found.delta_pct,
                "95% low": found.ci95_pct[0],
                "95% high": found.ci95_pct[1],
                "pairs": found.n,
            }
        )
    report(f"idle hooks, {options.model}/{options.length}", rows, options.output)


if __name__ == "__main__":
    main()
