"""The GPU while a tool measures: the kernel's own time by CUPTI, and the SM clock by NVML."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

POLL_S = 0.005


def trace_kernels(work: Callable[[], list[float]]) -> dict[str, Any]:
    """Run a tool once: its figure, the kernel's time in a CUPTI trace, and the clock.

    Args:
        work: lets the tool measure one kernel; microseconds of each call, or nothing where it keeps them.
    """
    import torch

    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile, watching_clock() as readings:
        figures = work()
        torch.cuda.synchronize()
    events = [
        (event.name, event.time_range.end - event.time_range.start)
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and "flash" in event.name
    ]
    return {"traced us": median(figures), "kernel us": kernel_us(events), "clock MHz": median(readings)}


def kernel_us(events: Sequence[tuple[str, float]]) -> float | None:
    """Time of a call out of its kernels' names and durations: of each kernel the median, and their sum.

    A kernel that ran less than half as often as the commonest is none of the call's.
    """
    times: dict[str, list[float]] = {}
    for name, us in events:
        times.setdefault(name, []).append(us)
    most = max(map(len, times.values()), default=0)
    medians = [float(np.median(each)) for each in times.values() if 2 * len(each) >= most]
    return sum(medians) if medians else None


@contextmanager
def watching_clock() -> Iterator[list[int]]:
    """The SM clock in MHz, read every POLL_S by another thread."""
    from harness.measure import clocks

    monitor, readings, over = clocks.for_device("cuda"), list[int](), threading.Event()

    def watch() -> None:
        while not over.wait(POLL_S):
            if mhz := monitor.read().sm_mhz:
                readings.append(mhz)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield readings
    finally:
        over.set()
        thread.join()


def median(values: Sequence[float]) -> float | None:
    """None without values."""
    return float(np.median(values)) if len(values) else None
