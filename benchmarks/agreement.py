"""Whether this harness and its peers agree on a kernel's time, and how repeatable each is.

    python benchmarks/agreement.py [--processes 10] [--seconds 0.4] [--calls "20 us,1 ms"]
        [--tools events,cupti,do_bench,nvbench] [--no-trace] [--output FILE]
    python benchmarks/agreement.py --observations FILE      judge an earlier output again, without a GPU

FA3 calls of about 20 us, 100 us and 1 ms, from a flushed L2 cache, by this harness (CUDA events, and CUPTI
kernel time), by triton.testing.do_bench and by NVBench (`pip install cuda-bench`); medians. Every tool gets
--seconds for each kernel: more than do_bench's default of 0.1, less than NVBench's of 0.5 s of kernel time.

A CUPTI trace of each tool at work decides who is right where they differ: "error %" is the tool's figure over
the kernel's own time in that trace, "clock MHz" the SM clock meanwhile, "traced us" its figure then. How long
a call takes depends on the clock, and that on how a tool loads the GPU: a tool is right if its figure matches
the kernel times in its own trace.

With --processes the figures are medians over as many fresh processes, only the first of which is traced, and
a second table has the spread over them: of the figure, and of the contrast between the call on 16 segments of
blocks and on one, which this harness takes from interleaved pairs and the others from two figures. The
harness shares the time of the two kernels with the series' two other arms; its figure for the call in that
series, where another kernel ran before it as in an engine, is "behind others us". Tools take turns in a
random order; NVBench, which runs all its calls at once, comes last.

Targets: ratio or error within 1% over 100 us, within 3% over 20 us; the smallest spread is ours.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from common import ROOT, here, parser_of, report
from judging import OURS, Row, agreement, conclusions, smallest, spreads
from tabulate import tabulate

TOOLS = ("events", "cupti", "do_bench", "nvbench")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.4, help="for each tool and kernel")
    parser.add_argument("--calls", type=lambda text: text.split(","), help="default: all")
    parser.add_argument("--tools", type=lambda text: text.split(","), default=list(TOOLS))
    parser.add_argument("--no-trace", action="store_true")
    parser.add_argument("--seed", type=int, default=0, help="of the order of the tools and of the rounds")
    parser.add_argument("--observations", type=Path, metavar="FILE")
    options = parser.parse_args()
    if unknown := set(options.tools) - set(TOOLS):
        parser.error(f"--tools {','.join(sorted(unknown))}: there are {','.join(TOOLS)}")
    where = None
    if options.observations:
        earlier = json.loads(options.observations.read_text())
        observations, where = earlier["observations"], earlier | {"started": earlier["date"]}
    elif options.processes == 1:
        observations = in_this_process(options)
    else:
        observations = in_fresh_processes(options)
    if not observations:
        raise SystemExit("nothing was measured")
    tell(observations, options.output, where)


def tell(observations: list[Row], output: str | None, where: Row | None) -> None:
    """Print the tables, and what follows from them in words."""
    rows, apart = agreement(observations), spreads(observations)
    words, best = conclusions(rows), smallest(apart)
    report(
        "agreement, cold L2", rows, output, where,
        conclusions=words, spreads=apart, smallest=best, observations=observations,
    )  # fmt: skip
    print("", *words, sep="\n")
    if apart:
        print("", "spread over fresh processes", tabulate(apart, headers="keys", floatfmt=".2g"), sep="\n")
        print("", *best, sep="\n")


def in_fresh_processes(options: argparse.Namespace) -> list[Row]:
    """The observations of one process after the other; those so far are in --output if one is killed."""
    observations: list[Row] = []
    about = here()
    for seed in range(options.processes):
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "rows.json"
            command = [sys.executable, __file__, "--output", str(output), "--seed", str(seed)]
            command += ["--seconds", str(options.seconds), "--tools", ",".join(options.tools)]
            command += ["--calls", ",".join(options.calls)] if options.calls else []
            command += ["--no-trace"] if seed or options.no_trace else []
            subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
            if not output.exists():
                print(f"process {seed} failed", file=sys.stderr)
                continue
            found = json.loads(output.read_text())["observations"]
        observations += [row | {"process": seed} for row in found]
        if options.output:
            so_far = about | {"date": about["started"], "observations": observations}
            Path(options.output).write_text(json.dumps(so_far, indent=1) + "\n")
    return observations


def in_this_process(options: argparse.Namespace) -> list[Row]:
    """Every call by every tool."""
    import torch
    from calls import CALLS, Placed
    from tools import do_bench, harness, nvbench

    names, trace, seed = options.calls or list(CALLS), not options.no_trace, options.seed
    cupti, seconds = "this harness, cupti", options.seconds
    work: dict[str, Callable[[str, Placed], Row]] = {
        "events": lambda call, at: harness(call, at, OURS, "events", seconds, trace, seed),
        "cupti": lambda call, at: harness(call, at, cupti, "cupti", seconds, trace, seed),
        "do_bench": lambda call, at: do_bench(call, at, seconds, trace),
    }
    shuffle = random.Random(seed)
    observations: list[Row] = []
    with torch.inference_mode():
        placed = {name: Placed(**CALLS[name]) for name in names}
        for name in names:
            chosen = [tool for tool in work if tool in options.tools]
            for tool in shuffle.sample(chosen, len(chosen)):
                observations.append(work[tool](name, placed[name]))
        if "nvbench" in options.tools:
            observations += nvbench(placed, options.seconds, trace)
    return observations


if __name__ == "__main__":
    main()
