"""A timer of whole transfers: the host's clock, from idle GPUs until all that a call started is done."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from harness import interrupts
from harness.measure.timers import L2, Preparation, Step


class WallTimer:
    """`time.perf_counter_ns` around a call and the wait for its GPUs, so that the host's share counts.

    A copy of thousands of descriptors takes as long as the host needs to submit them, which CUDA events
    behind a spin kernel would leave out. About 10 us of every figure are the wait's own.
    """

    def __init__(self, gpus: Sequence[torch.device], l2: L2 | None) -> None:
        """Args:
        gpus: all that calls use; none on a CPU.
        l2: the cache state before every call on CUDA.
        """
        self.name = f"host's clock until the GPUs are idle, {l2} L2" if gpus else "host's clock"
        self._gpus = gpus
        self._prepare = Preparation(l2) if gpus and l2 else None

    def time_round(self, steps: Sequence[Step]) -> list[float]:
        """Microseconds of each step."""
        times = []
        for step in steps:
            interrupts.check()
            if self._prepare:
                self._prepare.queue(step)
            self._wait()
            start = time.perf_counter_ns()
            step.run()
            self._wait()
            times.append((time.perf_counter_ns() - start) / 1e3)
        return times

    def _wait(self) -> None:
        for gpu in self._gpus:
            torch.cuda.synchronize(gpu)
