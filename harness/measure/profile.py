"""Where the time of one step goes: one call under torch.profiler, split into categories.

Figures are computed from the saved trace, so that anyone can check them. Profiling slows the host: a profile
says what the GPU (or, on a CPU, each operator) spent its time on, not how long a step takes.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch

from harness.measure.categories import CATEGORIES, category, short_name
from harness.measure.timers import SPIN_KERNEL, Activity
from harness.runs.writing import write_atomic

Device = Literal["cuda", "cpu"]
Share = tuple[str, float]  # an activity's name and its own microseconds

STEP = "profiled step"  # the range of the trace that holds the call
GPU_ACTIVITIES = ("kernel", "gpu_memcpy", "gpu_memset")  # libkineto's names for what a GPU does
CPU_OPERATORS = ("cpu_op",)
LONGEST = 12


class ProfileError(RuntimeError):
    """A call could not be profiled; says why."""


@dataclass(frozen=True)
class Entry:
    """All activities of one name."""

    name: str  # without its template arguments
    category: str
    ms: float  # their own time, without what counts for another activity
    calls: int


@dataclass(frozen=True)
class Profile:
    """One profiled call."""

    device: Device
    profiled_ms: float  # the whole call by the host's clock, slowed by the profiler
    categories: dict[str, float]  # ms for each of CATEGORIES, in that order
    top: tuple[Entry, ...]  # longest first, at most LONGEST
    spins_us: tuple[float, ...] = ()  # of each spin kernel in turn; only the harness launches these

    @property
    def busy_ms(self) -> float:
        """How long the GPU ran kernels, copies or fills; on a CPU the sum of operators' own times."""
        return sum(self.categories.values())

    def to_json(self) -> dict[str, Any]:
        """The profile as an item of the record's "profile", without the arm."""
        return {
            "profiled_ms": self.profiled_ms,
            "busy_ms": self.busy_ms,
            "categories": dict(self.categories),
            "top": [asdict(entry) for entry in self.top],
            "device": self.device,
        }


def profile_step(run: Callable[[], object], device: Device, trace: Path | None = None) -> Profile:
    """Call `run` once under the profiler.

    On a CPU, operators of other threads than the caller's are in the trace but not in the figures: they would
    count time twice.

    Args:
        run: the call; on a GPU it is waited for.
        trace: where to write the trace, JSON that Perfetto and chrome://tracing open; its folder must exist.

    Raises:
        ProfileError: the profiler recorded nothing, or another one is running.
    """
    with profiling(device, trace) as profiles:
        run()
    return profiles[0]


@contextmanager
def profiling(device: Device, trace: Path | None = None) -> Iterator[list[Profile]]:
    """Profile what runs inside the block, as `profile_step` does; afterwards the list holds the profile."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # otherwise some versions print two lines per profile
    profiles: list[Profile] = []
    kinds = torch.profiler.ProfilerActivity
    wanted = [kinds.CPU, kinds.CUDA] if device == "cuda" else [kinds.CPU]
    profiler = torch.profiler.profile(activities=wanted)
    try:
        profiler.start()
    except RuntimeError as error:
        raise ProfileError(f"the profiler did not start: {error}") from error
    try:
        if device == "cuda":
            torch.cuda._sleep(1)  # the profiler may miss the first
            torch.cuda.synchronize()
        with torch.profiler.record_function(STEP):
            start = time.perf_counter()
            yield profiles
            if device == "cuda":
                torch.cuda.synchronize()
            profiled_ms = 1e3 * (time.perf_counter() - start)
    finally:
        profiler.stop()
    recorded = _trace_of(profiler)
    if trace is not None:
        write_atomic(trace, json.dumps(recorded))
    profiles.append(_profile(profiled_ms, recorded["traceEvents"], device))


def _trace_of(profiler: torch.profiler.profile) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        recorded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for private in ("host_name", "traceName"):
        recorded.pop(private, None)
    return recorded


def _profile(profiled_ms: float, events: Iterable[dict[str, Any]], device: Device) -> Profile:
    activities = in_step(events, device)
    if not activities:
        raise ProfileError(
            "the profiler recorded no operator in the step"
            if device == "cpu"
            else "the profiler recorded no GPU activity in the step: another profiler may be attached, or "
            "profiling may be restricted on this machine"
        )
    shares = for_the_earlier(activities) if device == "cuda" else for_the_innermost(activities)
    spins_us = tuple(us for name, us in shares if SPIN_KERNEL in name)
    return Profile(device, profiled_ms, by_category(shares), longest(shares), spins_us)


def in_step(events: Iterable[dict[str, Any]], device: Device) -> list[Activity]:
    """A trace's activities in the step: on the GPU, or operators of the thread that ran it.

    Times are in us since the step's start.
    """
    spans = [event for event in events if event.get("ph") == "X" and "cat" in event]
    step = next(span for span in spans if span["name"] == STEP and span["cat"] == "user_annotation")
    wanted = GPU_ACTIVITIES if device == "cuda" else CPU_OPERATORS
    activities = []
    for span in spans:
        start_us = span["ts"] - step["ts"]
        elsewhere = device == "cpu" and span["tid"] != step["tid"]
        if span["cat"] in wanted and 0 <= start_us < step["dur"] and not elsewhere:
            activities.append(Activity(span["name"], start_us, start_us + span["dur"]))
    return activities


def for_the_earlier(activities: Iterable[Activity]) -> list[Share]:
    """Shares in which overlapping time, as on several streams, counts for the activity that began first.

    The shares add up to the union of the activities.
    """
    shares, until = [], float("-inf")
    for activity in sorted(activities, key=lambda activity: activity.start_us):
        shares.append((activity.name, max(0.0, activity.end_us - max(activity.start_us, until))))
        until = max(until, activity.end_us)
    return shares


def for_the_innermost(activities: Iterable[Activity]) -> list[Share]:
    """Shares in which overlapping time, as of nested operators, counts for the activity that began last.

    The shares add up to the union of the activities.
    """
    in_order = sorted(activities, key=lambda activity: (activity.start_us, -activity.end_us))
    own = [0.0] * len(in_order)
    open_: list[int] = []
    now = float("-inf")

    def advance(to: float) -> None:
        nonlocal now
        while open_ and now < to:
            until = min(in_order[open_[-1]].end_us, to)
            own[open_[-1]] += max(0.0, until - now)
            now = max(now, until)
            if now < to:
                open_.pop()
        now = to

    for n, activity in enumerate(in_order):
        advance(activity.start_us)
        open_.append(n)
    advance(float("inf"))
    return [(activity.name, us) for activity, us in zip(in_order, own, strict=True)]


def by_category(shares: Sequence[Share]) -> dict[str, float]:
    """Milliseconds of every category."""
    categories = dict.fromkeys(CATEGORIES, 0.0)
    for name, us in shares:
        categories[category(name)] += us / 1e3
    return categories


def longest(shares: Sequence[Share]) -> tuple[Entry, ...]:
    """The LONGEST names by their time, the longest first."""
    entries: dict[tuple[str, str], tuple[float, int]] = {}
    for name, us in shares:
        key = (short_name(name), category(name))
        ms, calls = entries.get(key, (0.0, 0))
        entries[key] = (ms + us / 1e3, calls + 1)
    all_ = [Entry(name, part, ms, calls) for (name, part), (ms, calls) in entries.items()]
    return tuple(sorted(all_, key=lambda entry: -entry.ms)[:LONGEST])
