"""What the installed but idle hooks cost a prefill.

    python benchmarks/idle_hooks.py [--model gpt2] [--length 4096] [--pairs 300] [--output FILE]

One engine; each pair of prefills has the hooks installed in one and removed in the other, in random
order. Two more contrasts of the same kind without any difference give the noise floor. Target: under 1%.
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
    parser.add_argument("--pairs", type=int, default=300)
    parser.add_argument("--output")
    options = parser.parse_args()

    from harness import config, device, layout, models, prompt, stats
    from harness.engine import PrefillEngine

    settings = config.resolve(config.load({"model": options.model, "length": options.length}), device.kind())
    source = models.materialise(models.inspect(options.model, length=options.length), seed=0)
    tokens, _ = prompt.token_ids(source, options.length, None, 0)
    with PrefillEngine(settings, source) as engine:
        blocks = layout.plan(settings.num_blocks(), 1, engine.free_block_ids())

        def prefill(hooked: bool) -> float:
            (engine.tap.install if hooked else engine.tap.remove)()
            seconds = engine.prefill(tokens, blocks).seconds
            engine.tap.remove()
            return 1e6 * seconds

        engine.tap.remove()
        for _ in range(10):
            prefill(False)
        arms = {"without": False, "without again": False, "with idle hooks": True}
        times: dict[str, list[float]] = {name: [] for name in arms}
        order, shuffle = list(arms), random.Random(0)
        for _ in range(options.pairs):
            shuffle.shuffle(order)
            for name in order:
                times[name].append(prefill(arms[name]))
    rows = []
    for name in ("with idle hooks", "without again"):
        found = stats.paired_difference(times["without"], times[name])
        rows.append(
            {
                "contrast": f"{name} - without",
                "baseline ms": stats.median_interval(times["without"]).median_us / 1e3,
                "difference %": found.delta_pct,
                "95% low": found.ci95_pct[0],
                "95% high": found.ci95_pct[1],
                "pairs": found.n,
            }
        )
    report(f"idle hooks, {options.model}/{options.length}", rows, options.output)


if __name__ == "__main__":
    main()
