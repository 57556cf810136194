"""The tools that agreement.py compares, on the same calls.

A tool gets the same time for each of two kernels: a call on one segment of blocks, and on several. Its
figures for them, and what a CUPTI trace of it at work on the first one shows, are an observation (see
judging.py).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from calls import SPREAD_K, Placed, contrast
from judging import Row
from tracing import median, trace_kernels, watching_clock

from harness.analysis import stats
from harness.measure import clocks, timers
from harness.measure.budget import Budget
from harness.measure.sampler import Series, sample
from harness.measure.timers import Step
from harness.runs.record import Result

NO_LIMIT = 10**9


def harness(call: str, placed: Placed, tool: str, timer: str, seconds: float, trace: bool, seed: int) -> Row:
    """The harness: the kernel alone for its figure, as the others have it, and for the contrast four arms in
    every round, as the main job has it, for the time of two kernels."""

    def measure(series: Series, for_s: float) -> Sequence[Result]:
        timed = timers.for_device("cuda", timer, "cold")
        budget = Budget(for_s, 1, most_rounds=NO_LIMIT)
        # No interval is narrower than 0: only time ends it.
        return sample(series, timed, budget, seed, monitor=clocks.for_device("cuda"), precision_pct=-1.0)

    def alone() -> list[float]:
        series = placed.series(call)
        return measure(Series(series.results[:1], [placed.one_segment()]), seconds)[0].samples_us

    results = measure(placed.series(call), 2 * seconds)
    one_segment, _ = contrast(results)
    (split,) = (r for r in results if r.cell.arm == "paged" and r.cell.spread_k == SPREAD_K)
    found = stats.paired_difference(*stats.pull_in([one_segment.samples_us, split.samples_us]))
    samples = alone()
    row: Row = {"call": call, "tool": tool, "us": median(samples), "samples": len(samples)}
    row |= {"behind others us": found.baseline_us, "contrast %": found.delta_pct}
    if not trace:
        return row
    if timer == "cupti":  # it is such a trace; another one cannot run beside it
        with watching_clock() as readings:
            alone()
        return row | {"traced us": row["us"], "kernel us": row["us"], "clock MHz": median(readings)}
    return row | trace_kernels(alone)


def do_bench(call: str, placed: Placed, seconds: float, trace: bool) -> Row:
    """triton.testing.do_bench, one kernel after the other."""
    from triton.testing import do_bench as benchmark

    def measure(step: Step) -> list[float]:
        return [1e3 * ms for ms in benchmark(step.run, rep=round(1e3 * seconds), return_mode="all")]

    times = [measure(step) for step in (placed.one_segment(), placed.fragmented())]
    row = one_after_the_other(call, "triton do_bench", times)
    if not trace:
        return row
    step = placed.one_segment()
    return row | trace_kernels(lambda: measure(step))


def one_after_the_other(call: str, tool: str, times: Sequence[Sequence[float]]) -> Row:
    """An observation by a tool that measured first the one segment, then several."""
    one_segment, split = (float(np.median(each)) for each in times)
    return {
        "call": call,
        "tool": tool,
        "us": one_segment,
        "contrast %": 100 * (split / one_segment - 1),
        "samples": len(times[0]),
    }


def nvbench(placed: dict[str, Placed], seconds: float, trace: bool) -> list[Row]:
    """NVBench, all calls in one go; rows with a remark if it is not installed (ImportError) or fails."""
    tool = "NVBench"
    traces: dict[str, Row] = {}
    try:
        from cuda import bench

        for call, made in placed.items():
            for name, step in (("one segment", made.one_segment()), ("split", made.fragmented())):
                bench.register(nvbench_plain(step, seconds)).set_name(f"{call}, {name}")
            if trace:
                work = nvbench_traced(made.one_segment(), seconds, call, traces)
                bench.register(work).set_name(f"{call}, traced")
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "nvbench.json"
            bench.run_all_benchmarks(["agreement", "--quiet", "--devices", "0", "--jsonbin", str(output)])
            times = {
                one["name"]: nvbench_samples(one["states"][0], Path(folder))
                for one in json.loads(output.read_text())["benchmarks"]
            }
    except ImportError as error:
        return [
            {"call": call, "tool": tool, "us": None, "remark": f"not installed: {error}"} for call in placed
        ]
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        return [{"call": call, "tool": tool, "us": None, "remark": why} for call in placed]
    rows = []
    for call in placed:
        row = one_after_the_other(call, tool, [times[f"{call}, one segment"], times[f"{call}, split"]])
        if call in traces:
            row |= traces[call] | {"traced us": float(np.median(times[f"{call}, traced"]))}
        rows.append(row)
    return rows


def nvbench_plain(step: Step, seconds: float) -> Callable[[Any], None]:
    """The step as an NVBench benchmark, on NVBench's stream."""

    def benchmark(state: Any) -> None:
        stream = torch.cuda.ExternalStream(state.get_stream().addressof())
        state.set_timeout(seconds)

        def launch(_: Any) -> None:
            with torch.inference_mode(), torch.cuda.stream(stream):
                step.run()

        launch(None)  # so that nothing is allocated behind NVBench's blocking kernel
        torch.cuda.synchronize()
        state.exec(launch, batched=False)

    return benchmark


def nvbench_traced(step: Step, seconds: float, call: str, traces: dict[str, Row]) -> Callable[[Any], None]:
    """The same, with what a trace shows put into `traces[call]`."""
    plain = nvbench_plain(step, seconds)

    def benchmark(state: Any) -> None:
        # NVBench ends the process if a launch waits behind its blocking kernel, as one under a profiler may.
        state.set_disable_blocking_kernel(True)

        def work() -> list[float]:
            plain(state)
            return []  # NVBench writes its figures to a file, at the end

        traces[call] = trace_kernels(work)

    return benchmark


def nvbench_samples(state: dict[str, Any], folder: Path) -> list[float]:
    """The isolated samples of a benchmark in NVBench's JSON output, in us; raises ValueError without any."""
    for summary in state["summaries"] or []:
        if summary["tag"] == "nv/json/bin:nv/cold/sample_times":
            name = next(item["value"] for item in summary["data"] if item["name"] == "filename")
            path = next(path for path in (folder / name, folder.parent / name, Path(name)) if path.exists())
            return [1e6 * float(seconds) for seconds in np.fromfile(path, "<f4")]
    raise ValueError(f"no samples: {state.get('skip_reason')}")
