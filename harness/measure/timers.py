"""Timers: how long one call of an arm took, for a whole round of arms at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

CYCLES_PER_SECOND = 2e9  # at most what GPUs clock, so a spin kernel is never shorter than asked for
LONGEST_SPIN_S = 0.05


@dataclass(frozen=True)
class Step:
    """One timed call, with what has to happen ahead of it, untimed."""

    run: Callable[[], object]
    before: Callable[[], object] | None = None


class Timer(Protocol):
    """Times the steps of one round, in their order."""

    name: str

    def time_round(self, steps: Sequence[Step]) -> list[float]:
        """Microseconds of each step."""
        ...


class CpuTimer:
    """`time.perf_counter_ns` around each call."""

    name = "perf_counter"

    def time_round(self, steps: Sequence[Step]) -> list[float]:
        times = []
        for step in steps:
            if step.before:
                step.before()
            start = time.perf_counter_ns()
            step.run()
            times.append((time.perf_counter_ns() - start) / 1e3)
        return times


class CudaEventTimer:
    """CUDA events around each call, the whole round queued behind a spin kernel.

    While the GPU spins, the host launches everything, so no launch gap falls between two events. The
    spin is as long as launching the last round took; a round that was launched too slowly all the same
    is slower on the host than on the GPU and its events are honest for calls of many times the launch
    cost only.
    """

    name = "cuda events behind a spin kernel"

    def __init__(self) -> None:
        self._launch_s = 0.002

    def time_round(self, steps: Sequence[Step]) -> list[float]:
        pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in steps]
        spin_s = min(1.5 * self._launch_s, LONGEST_SPIN_S)
        torch.cuda.synchronize()
        torch.cuda._sleep(int(spin_s * CYCLES_PER_SECOND))
        launch = time.perf_counter()
        for step, (start, end) in zip(steps, pairs, strict=True):
            if step.before:
                step.before()
            start.record()
            step.run()
            end.record()
        self._launch_s = 0.5 * self._launch_s + 0.5 * (time.perf_counter() - launch)
        torch.cuda.synchronize()
        return [1e3 * start.elapsed_time(end) for start, end in pairs]


def for_device(device: str) -> Timer:
    """The timer for "cpu" or "cuda"."""
    return CpuTimer() if device == "cpu" else CudaEventTimer()
