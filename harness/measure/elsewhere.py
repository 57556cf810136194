"""What the host does besides the run: CPU time of others, steal, CPU clock, heat, others on the GPU.

Everything is read from files of Linux under a root, and missing where one is: then nothing is known of it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness import device
from harness.runs.schema import HostLoad

ROOT = Path("/")
STEAL = 7  # of /proc/stat's columns: user nice system idle iowait irq softirq steal
IDLE = (3, 4)


@dataclass(frozen=True)
class Reading:
    """The host's counters at one moment; times in clock ticks, None: not known."""

    cpus: int  # that this process may use
    ticks: tuple[int, ...] | None  # of those, by column of /proc/stat
    own_ticks: int | None  # of this process and its descendants
    load: float | None  # processes that ran or waited, on average over the last minute
    mhz: float | None  # mean over CPUs
    temperature_c: float | None  # the hottest zone


def read(root: Path = ROOT, cpus: Iterable[int] | None = None, pid: int | None = None) -> Reading:
    """The state right now; takes milliseconds and never raises for a file that is not there.

    Args:
        root: of /proc and /sys.
        cpus: that this process may use; None: ask.
        pid: of this process; None: ask.
    """
    usable = sorted(os.sched_getaffinity(0) if cpus is None else cpus)
    load = re.match(r"[\d.]+", _text(root / "proc/loadavg"))
    clocks = [float(mhz) for mhz in re.findall(r"cpu MHz\s*: ([\d.]+)", _text(root / "proc/cpuinfo"))]
    zones = [_text(path) for path in root.glob("sys/class/thermal/thermal_zone*/temp")]
    heat = [int(text) / 1000 for text in zones if re.fullmatch(r"\d+\s*", text)]
    return Reading(
        len(usable),
        _ticks(_text(root / "proc/stat"), usable),
        _own_ticks(root, os.getpid() if pid is None else pid),
        float(load[0]) if load else None,
        sum(clocks) / len(clocks) if clocks else None,
        max(heat, default=None),
    )


def between(before: Reading, after: Reading, gpu_processes: int | None = None) -> HostLoad:
    """What the host did between two readings.

    Args:
        gpu_processes: on the GPU before the run.
    """
    others = steal = None
    if before.ticks and after.ticks:
        spent = [b - a for a, b in zip(before.ticks, after.ticks, strict=True)]
        if (total := sum(spent)) > 0:
            steal = 100 * max(spent[STEAL], 0) / total  # a migrated machine may count anew
            if before.own_ticks is not None and after.own_ticks is not None:
                busy = total - sum(spent[column] for column in IDLE) - spent[STEAL]
                own = after.own_ticks - before.own_ticks
                others = max(busy - own, 0) * before.cpus / total
    return HostLoad(
        cpus=before.cpus,
        load_before=before.load,
        other_cpus=None if others is None else round(others, 3),
        steal_pct=None if steal is None else round(steal, 3),
        mhz_before=before.mhz,
        mhz_after=after.mhz,
        temperature_before_c=before.temperature_c,
        temperature_after_c=after.temperature_c,
        gpu_processes_before=gpu_processes,
    )


def gpu_processes() -> int | None:
    """How many processes compute on the GPUs that CUDA may use; None: there is none, or it is not known, as
    this process computes there already.
    """
    handles, torch = device.nvidia_devices(), sys.modules.get("torch")
    if not handles or (torch and torch.cuda.is_initialized()):
        return None
    import pynvml

    try:
        return sum(len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle)) for handle in handles)
    except pynvml.NVMLError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _ticks(stat: str, cpus: Iterable[int]) -> tuple[int, ...] | None:
    """The sums of the CPUs' columns; None without them."""
    lines = dict(re.findall(r"^cpu(\d+) (.+)$", stat, re.MULTILINE))
    rows = [
        [int(ticks) for ticks in lines[str(cpu)].split()[: STEAL + 1]] for cpu in cpus if str(cpu) in lines
    ]
    if not rows or any(len(row) <= STEAL for row in rows):
        return None
    return tuple(map(sum, zip(*rows, strict=True)))


def _own_ticks(root: Path, pid: int) -> int | None:
    """CPU time of a process and its descendants, ended ones included."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for path in root.glob("proc/[0-9]*/stat"):
        # The name, in brackets, may hold anything.
        if len(fields := _text(path).rpartition(")")[2].split()) > 14:
            number = int(path.parent.name)
            parents[number], ticks[number] = int(fields[1]), sum(map(int, fields[11:15]))
    if pid not in ticks:
        return None
    own, found = {pid}, {pid}
    while found:
        found = {child for child, parent in parents.items() if parent in found} - own
        own |= found
    return sum(ticks[number] for number in own)
