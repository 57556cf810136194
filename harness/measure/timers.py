"""Timers: how long one call of an arm took, for a whole round of arms at once.

On a GPU every call starts from a known state of the L2 cache, whatever call precedes it in the random order:

warm  the call itself has just run, untimed. What it reads is in L2 if it fits, as in a prefill, where
      the step's Q, K and V were written just before attention reads them. One run does not undo all of
      what an arm that evicts everything did (a copy of half the L2 was 13% slower after one than after its
      input was written, on an H100): the random order of a round makes that noise, not bias.
cold  a buffer of FLUSH_SIZE times the L2 has just been written, untimed, as triton's do_bench and
      NVBench do. The call reads its inputs from memory, as with a prefix that an earlier step computed.

A third choice, "as the round left it", would give each arm its predecessor's cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from weakref import WeakSet

import torch

from harness import interrupts

L2 = Literal["warm", "cold"]

CYCLES_PER_SECOND = 2e9  # of a spin kernel; a GPU with a higher clock spins shorter, which the timer notices
SPIN_MARGIN = 1.5
LONGEST_SPIN_S = 0.05
ATTEMPTS = 3
FLUSH_SIZE = 4  # times the L2: a cache that does not evict the oldest lines first keeps some after one pass
SPIN_KERNEL = "spin_kernel"  # the kernel that torch.cuda._sleep launches (aten/src/ATen/cuda/Sleep.cu)


@dataclass(frozen=True)
class Step:
    """One timed call."""

    run: Callable[[], object]


class Timer(Protocol):
    """Times the steps of one round, in their order."""

    name: str

    def time_round(self, steps: Sequence[Step]) -> list[float]:
        """Microseconds of each step."""
        ...


class CpuTimer:
    """`time.perf_counter_ns` around each call; caches are as the previous call left them."""

    name = "perf_counter"

    def time_round(self, steps: Sequence[Step]) -> list[float]:
        """Microseconds of each step."""
        times = []
        for step in steps:
            interrupts.check()
            start = time.perf_counter_ns()
            step.run()
            times.append((time.perf_counter_ns() - start) / 1e3)
        return times


class Preparation:
    """The work queued before a call to make the L2 cache warm or cold."""

    def __init__(self, l2: L2) -> None:
        self.l2 = l2
        self._buffer: torch.Tensor | None = None

    def queue(self, step: Step) -> None:
        """Launch it on the current stream, without waiting."""
        if self.l2 == "warm":
            step.run()
        else:
            self._flush()

    def _flush(self) -> None:
        if self._buffer is None:
            size = FLUSH_SIZE * torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
            with torch.inference_mode(
                False
            ):  # a tensor created in inference mode cannot be written outside it
                self._buffer = torch.empty(size // 4, dtype=torch.int32, device="cuda")
        self._buffer.zero_()


class CudaEventTimer:
    """CUDA events around each call, the round queued behind a spin kernel.

    The host launches while the GPU spins, so that no launch gap falls between a call's two events. This is
    verified for each call: if the GPU has passed the start event by the time the host has queued the end
    event, the call may include a gap. The round is then discarded and repeated behind a longer spin, up to
    ATTEMPTS times and LONGEST_SPIN_S. A call that is late even then waits for the GPU itself (or longer than
    the longest spin): its figure is kept, because the wait is part of the call, and counted in
    `launch_bound`. Such a call is not retried in later rounds, and the calls after it get a new spin.

    A figure is the time between the two events on the GPU: the call's kernels, the gaps between them,
    and 1 to 2 us for the events themselves, the same for every arm.
    """

    def __init__(self, l2: L2 = "warm") -> None:
        self.name = f"cuda events behind a spin kernel, {l2} L2"
        self.launch_bound = 0  # figures so far that may include time in which the GPU waited for the host
        self._prepare = Preparation(l2)
        self._launch_s = 0.002  # recent launch time of a round
        self._waiting: WeakSet[Step] = WeakSet()  # calls that no spin could help

    def time_round(self, steps: Sequence[Step]) -> list[float]:
        """Microseconds of each step."""
        for _ in range(ATTEMPTS):
            torch.cuda.synchronize()
            spans, late = self._queue(steps)
            torch.cuda.synchronize()
            surprising = [step for step in late if step not in self._waiting]
            if not surprising:
                break
            self._launch_s = min(2 * self._launch_s, LONGEST_SPIN_S)
        self._waiting.update(late)
        for step in steps:
            if step not in late:
                self._waiting.discard(step)
        self.launch_bound += len(late)
        return [1e3 * start.elapsed_time(end) for start, end in spans]

    def _queue(self, steps: Sequence[Step]) -> tuple[list[tuple[Any, Any]], list[Step]]:
        """Launch a round; returns the events around each call, and the calls that were launched too late."""
        spans: list[tuple[Any, Any]] = []
        late: list[Step] = []
        launch_s, behind = 0.0, False
        for step in steps:
            if not spans or behind or spans[-1][1].query():  # the GPU's queue is empty, or about to be
                spin_s = min(SPIN_MARGIN * self._launch_s, LONGEST_SPIN_S)
                torch.cuda._sleep(int(spin_s * CYCLES_PER_SECOND))
            begun = time.perf_counter()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._prepare.queue(step)
            start.record()
            step.run()
            end.record()
            behind = bool(start.query())
            if behind:
                late.append(step)
            if step not in self._waiting:
                launch_s += time.perf_counter() - begun
            spans.append((start, end))
        self._launch_s = 0.5 * self._launch_s + 0.5 * launch_s
        return spans, late


@dataclass(frozen=True)
class Activity:
    """A kernel, copy or fill that ran on the GPU, by CUPTI's clock."""

    name: str
    start_us: float
    end_us: float


class CuptiTimer:
    """Kernel time through CUPTI, by torch.profiler: how long a call's kernels, copies and fills ran.

    Figures exclude launch gaps, events and pauses between kernels. A call's activities are identified by
    their place on the GPU's time line, between two one-cycle spin kernels that enclose the call: a stream
    runs its queue in order, and a call joins any streams that it forks to. This needs no ranges or
    correlation ids, for which every PyTorch operator would have to be traced on the CPU too.

    Starting and reading a trace takes tens of ms, so `time_rounds` takes many rounds in one trace.
    """

    rounds_together = 20  # rounds that the sampler requests at once

    def __init__(self, l2: L2 = "warm") -> None:
        self.name = f"kernel time by CUPTI, {l2} L2"
        self._prepare = Preparation(l2)

    def time_round(self, steps: Sequence[Step]) -> list[float]:
        """Microseconds of each step; see `time_rounds`."""
        return self.time_rounds([steps])[0]

    def time_rounds(self, rounds: Sequence[Sequence[Step]]) -> list[list[float]]:
        """Microseconds of each step of each round, from one trace.

        Raises:
            RuntimeError: CUPTI records nothing here, or an incomplete trace.
        """
        calls = sum(len(steps) for steps in rounds)
        for _ in range(ATTEMPTS):
            times = busy_us(self._trace(rounds), calls)
            if times is not None:
                remaining = iter(times)
                return [[next(remaining) for _ in steps] for steps in rounds]
        raise RuntimeError(
            f"CUPTI's trace of {calls} calls is not complete: another profiler may be attached, or "
            "profiling may be restricted on this machine; --timer events needs no CUPTI"
        )

    def _trace(self, rounds: Sequence[Sequence[Step]]) -> list[Activity]:
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            torch.cuda._sleep(1)  # the profiler may miss the first
            for steps in rounds:
                # Calls run back to back, as behind the event timer's spin.
                torch.cuda._sleep(int(0.002 * CYCLES_PER_SECOND))
                for n, step in enumerate(steps):
                    if n:
                        torch.cuda._sleep(1)
                    self._prepare.queue(step)
                    torch.cuda._sleep(1)
                    step.run()
                    torch.cuda._sleep(1)
            torch.cuda.synchronize()
        return [
            Activity(event.name, event.time_range.start, event.time_range.end)
            for event in profile.events()
            if event.device_type == torch.autograd.DeviceType.CUDA and not _is_sync(event.name)
        ]


def busy_us(activities: Iterable[Activity], calls: int) -> list[float] | None:
    """How long each of `calls` calls kept the GPU busy, in us; None if the trace is not complete.

    The time line must end in three spin kernels per call: one before its preparation, and one on either side
    of the call itself. Nothing may run between one call's last and the next call's first; something must run
    in the other two places. Overlapping activities of a call count once.
    """
    in_order = sorted(activities, key=lambda activity: activity.start_us)
    marks = [n for n, activity in enumerate(in_order) if SPIN_KERNEL in activity.name]
    if len(marks) < 3 * calls or calls == 0:
        return None if calls else []
    marks = marks[-3 * calls :]
    times = []
    for n in range(0, 3 * calls, 3):
        ahead, before, after = marks[n : n + 3]
        following = marks[n + 3] if n + 3 < len(marks) else len(in_order)
        if before - ahead < 2 or after - before < 2 or following - after > 1:
            return None
        times.append(_union_us(in_order[before + 1 : after]))
    return times


def _union_us(in_order: Sequence[Activity]) -> float:
    """Length of the union of the activities, which are sorted by start."""
    total, until = 0.0, float("-inf")
    for activity in in_order:
        total += max(0.0, activity.end_us - max(activity.start_us, until))
        until = max(until, activity.end_us)
    return total


def _is_sync(name: str) -> bool:
    """Whether this is a wait ("Context Sync", "Stream Wait Event", ...), which the profiler lists too."""
    return name.endswith(" Sync") or name == "Stream Wait Event"


def time_rounds(timer: Timer, rounds: Sequence[Sequence[Step]]) -> list[list[float]]:
    """Microseconds of each step of each round: together if the timer can, else round by round."""
    at_once: Callable[[Sequence[Sequence[Step]]], list[list[float]]] | None
    at_once = getattr(timer, "time_rounds", None)
    return at_once(rounds) if at_once else [timer.time_round(steps) for steps in rounds]


def for_device(device: str, timer: str = "auto", l2: L2 | None = None) -> Timer:
    """The timer for "cpu" or "cuda".

    Args:
        timer: perf_counter (CPU), events or cupti (CUDA), or auto: perf_counter and events. Events include
            the pauses between a call's kernels, as in a prefill; cupti counts only the kernels.
        l2: the cache state before every call on CUDA; None is warm.

    Raises:
        ValueError: the timer is not for this device.
    """
    chosen = {"cpu": "perf_counter", "cuda": "events"}[device] if timer == "auto" else timer
    if device == "cpu" and chosen == "perf_counter":
        return CpuTimer()
    if device == "cuda" and chosen in ("events", "cupti"):
        return CudaEventTimer(l2 or "warm") if chosen == "events" else CuptiTimer(l2 or "warm")
    raise ValueError(f"no timer {timer} on {device}")
