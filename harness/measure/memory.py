"""Peak memory of this process: of its GPU where it has one, else of its resident pages."""

from __future__ import annotations

import contextlib
import gc
import re
from pathlib import Path

import torch


def start_peak(device: str) -> None:
    """Begin a new peak; `device` is "cuda" or "cpu"."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):  # where the kernel lets a process do that (proc(5))
        Path("/proc/self/clear_refs").write_text("5")


def end_peak(device: str) -> int:
    """The peak in bytes since `start_peak`; what is no longer used is freed."""
    gc.collect()
    if device == "cuda":
        peak = int(torch.cuda.max_memory_allocated())
        torch.cuda.empty_cache()
        return peak
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[1])  # type: ignore[index]
