"""Whether this harness and its peers agree on what a kernel takes, and how far each repeats itself.

    python benchmarks/agreement.py [--processes 1] [--output FILE]

FA3 calls of about 20 us, 100 us and 1 ms, from a flushed L2 cache, by this harness (CUDA events, and CUPTI
kernel time), by triton.testing.do_bench and by NVBench (`pip install cuda-bench`), each with its own
defaults; medians. "traced us" is the kernel's own time in a CUPTI trace of the same tool at work, so that
"above trace" is what the tool's way of timing adds, and the rest of a difference is the GPU: its clock, its
cache. With --processes 10 the figures are medians over as many fresh processes, and "spread" is the largest
less the smallest, over the median. Targets: ratio within 1% over 100 us, within 3% over 20 us; the smallest
spread is ours.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, report

ROUNDS, CALLS_A_ROUND, WARMUP = 20, 10, 3
OURS = "this harness, events"

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--output")
    options = parser.parse_args()
    rows = in_this_process() if options.processes == 1 else in_fresh_processes(options.processes)
    ours = {row["call"]: row["us"] for row in rows if row["tool"] == OURS}
    for row in rows:
        if row["us"]:
            row["ours / it"] = ours[row["call"]] / row["us"]
        if row["us"] and row["traced us"]:
            row["above trace %"] = 100 * (row["us"] / row["traced us"] - 1)
    report("agreement, cold L2", rows, options.output)


def in_fresh_processes(count: int) -> list[Row]:
    """Medians over fresh processes, and the spread over them."""
    found: dict[tuple[str, str], list[Row]] = {}
    for _ in range(count):
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "rows.json"
            command = [sys.executable, __file__, "--output", str(output)]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            for row in json.loads(output.read_text())["rows"]:
                found.setdefault((row["call"], row["tool"]), []).append(row)
    rows = []
    for (call, tool), members in found.items():
        us, traced = ([row[key] for row in members if row[key]] for key in ("us", "traced us"))
        row = figures(call, tool, us, traced, members[0].get("remark"))
        if us:
            row |= {"spread %": 100 * (max(us) - min(us)) / np.median(us), "processes": len(us)}
        rows.append(row)
    return rows


def in_this_process() -> list[Row]:
    """Every call by every tool."""
    import torch
    from calls import CALLS, Placed

    from harness.measure.timers import CudaEventTimer, CuptiTimer

    rows = []
    with torch.inference_mode():
        runs = {name: Placed(**shape).one_run().run for name, shape in CALLS.items()}
        for name, run in runs.items():
            rows.append(measured(name, OURS, lambda run=run: ours(run, CudaEventTimer("cold"))))
            alone = ours(run, CuptiTimer("cold"))
            rows.append(figures(name, "this harness, cupti", alone, alone))
            rows.append(measured(name, "triton do_bench", lambda run=run: do_bench(run)))
        rows += nvbench(runs)
    order = list(CALLS)
    return sorted(rows, key=lambda row: order.index(row["call"]))


def measured(call: str, tool: str, measure: Callable[[], list[float]]) -> Row:
    """The tool's figures, then the kernel's time in a trace while the tool works once more."""
    times = measure()
    return figures(call, tool, times, traced(measure))


def figures(
    call: str, tool: str, times: Iterable[float], kernel_times: Iterable[float], remark: str | None = None
) -> Row:
    """A row with the medians."""
    us, alone = (float(np.median(values)) if values else None for values in (times, kernel_times))
    row: Row = {"call": call, "tool": tool, "us": us, "traced us": alone}
    return row | ({"remark": remark} if remark else {})


def ours(run: Callable[[], object], timer: Any) -> list[float]:
    """Microseconds of each call, in rounds as a series has them."""
    from harness.measure.timers import Step, time_rounds

    rounds = [[Step(run)] * CALLS_A_ROUND] * (WARMUP + ROUNDS)
    return [us for times in time_rounds(timer, rounds)[WARMUP:] for us in times]


def do_bench(run: Callable[[], object]) -> list[float]:
    """The same by triton, which flushes with a buffer of 256 MB and lets the host launch as it can."""
    from triton.testing import do_bench as benchmark

    return [1e3 * ms for ms in benchmark(run, return_mode="all")]


def traced(work: Callable[[], object]) -> list[float]:
    """Durations of the flash-attention kernels that ran meanwhile, in us, by CUPTI.

    One figure a call: a kernel that prepares another is added to it by its median.
    """
    import torch

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    kernels: dict[str, list[float]] = {}
    for event in profile.events():
        if event.device_type == torch.autograd.DeviceType.CUDA and "flash" in event.name:
            kernels.setdefault(event.name, []).append(event.time_range.end - event.time_range.start)
    if not kernels:
        return []
    longest = max(kernels, key=lambda name: sum(kernels[name]))
    others = sum(float(np.median(times)) for name, times in kernels.items() if name != longest)
    return [us + others for us in kernels[longest]]


def nvbench(runs: dict[str, Callable[[], object]]) -> list[Row]:
    """The same by NVBench; rows with a remark where it is not installed or fails."""
    tool = "NVBench"
    kernel_times: dict[str, list[float]] = {}
    try:
        from cuda import bench

        for name, run in runs.items():
            bench.register(nvbench_plain(run)).set_name(name)
            bench.register(nvbench_traced(run, name, kernel_times)).set_name(f"{name}, traced")
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "nvbench.json"
            bench.run_all_benchmarks(["agreement", "--quiet", "--devices", "0", "--jsonbin", str(output)])
            times = {
                one["name"]: nvbench_samples(one["states"][0], Path(folder))
                for one in json.loads(output.read_text())["benchmarks"]
            }
    except ImportError as error:
        return [figures(name, tool, [], [], f"not installed: {error}") for name in runs]
    except Exception as error:
        return [figures(name, tool, [], [], f"{type(error).__name__}: {error}") for name in runs]
    return [figures(name, tool, times[name], kernel_times.get(name, [])) for name in runs]


def nvbench_plain(run: Callable[[], object]) -> Callable[[Any], None]:
    """`run` as an NVBench benchmark, on NVBench's stream."""
    import torch

    def benchmark(state: Any) -> None:
        stream = torch.cuda.ExternalStream(state.get_stream().addressof())

        def launch(_: Any) -> None:
            with torch.inference_mode(), torch.cuda.stream(stream):
                run()

        launch(None)  # so that nothing is allocated behind NVBench's blocking kernel
        torch.cuda.synchronize()
        state.exec(launch, batched=False)

    return benchmark


def nvbench_traced(
    run: Callable[[], object], name: str, kernel_times: dict[str, list[float]]
) -> Callable[[Any], None]:
    """The same, with the kernel's times put into `kernel_times[name]`."""
    plain = nvbench_plain(run)

    def benchmark(state: Any) -> None:
        # NVBench ends the process if a launch waits behind its blocking kernel, as one under a profiler may.
        state.set_disable_blocking_kernel(True)
        kernel_times[name] = traced(lambda: plain(state))

    return benchmark


def nvbench_samples(state: dict[str, Any], folder: Path) -> list[float]:
    """The isolated samples of a benchmark in NVBench's JSON output, in us; raises ValueError without any."""
    for summary in state["summaries"] or []:
        if summary["tag"] == "nv/json/bin:nv/cold/sample_times":
            name = next(item["value"] for item in summary["data"] if item["name"] == "filename")
            path = next(path for path in (folder / name, folder.parent / name, Path(name)) if path.exists())
            return [1e6 * float(seconds) for seconds in np.fromfile(path, "<f4")]
    raise ValueError(f"no samples: {state.get('skip_reason')}")


if __name__ == "__main__":
    main()
