"""Memory of this process: of its GPU where it has one, else of its resident pages."""

from __future__ import annotations

import contextlib
import gc
import os
import re
from pathlib import Path

import torch


def now_bytes(device: str) -> int:
    """Bytes at this moment: of tensors on the GPU, or of resident pages."""
    if device == "cuda":
        return int(torch.cuda.memory_allocated())
    resident = int(Path("/proc/self/statm").read_text().split()[1])
    return resident * os.sysconf("SC_PAGE_SIZE")


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
    peak = peak_bytes(device)
    if device == "cuda":
        torch.cuda.empty_cache()
    return peak


def peak_bytes(device: str) -> int:
    """The peak in bytes since `start_peak`; nothing is freed."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[1])  # type: ignore[index]
