"""The device's measured ceilings, with which kernels' TFLOP/s and GB/s are compared."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from harness.measure import timers
from harness.measure.clocks import ClockMonitor
from harness.measure.timers import Step

ROUNDS = 20
CPU_SECONDS = 0.3
SIZES = {"cuda": (8192, 2**29), "cpu": (1024, 2**26)}  # side of the matrices; bytes copied


@dataclass(frozen=True)
class Ceilings:
    """The best of a few repetitions: a ceiling is what the device can do, not what it does on average."""

    tflops: float  # bfloat16 matrix product, 2 n^3 operations
    gbps: float  # copy within the device's memory, bytes read plus bytes written, 1e9 bytes a second
    clock_mhz: float | None  # median SM clock of the repetitions; None: not known


def measure(device: str, monitor: ClockMonitor) -> Ceilings:
    """Multiply two bfloat16 matrices of 8192 x 8192 (CPU: 1024 x 1024) and copy 512 MiB (CPU: 64 MiB).

    Takes 0.2 s on a GPU, and about CPU_SECONDS on a CPU. Random matrices: a GPU multiplies zeros faster.

    Args:
        device: "cpu" or "cuda".
        monitor: of the device's clocks.
    """
    side, size = SIZES[device]
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    product = torch.empty_like(a)
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    steps = [Step(lambda: torch.mm(a, b, out=product)), Step(lambda: target.copy_(source))]
    timer = timers.for_device(device, "auto", "warm")
    until = time.perf_counter() + (CPU_SECONDS if device == "cpu" else float("inf"))
    best, clocks = timer.time_round(steps), [monitor.read().sm_mhz]
    for _ in range(ROUNDS):
        best = [min(pair) for pair in zip(best, timer.time_round(steps), strict=True)]
        clocks.append(monitor.read().sm_mhz)
        if time.perf_counter() > until:
            break
    known = [mhz for mhz in clocks if mhz is not None]
    return Ceilings(
        tflops=2 * side**3 / best[0] / 1e6,
        gbps=2 * size / best[1] / 1e3,
        clock_mhz=float(np.median(known)) if known else None,
    )
