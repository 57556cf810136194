"""Memory of this process: of its GPU if it uses one, else its resident pages."""

from __future__ import annotations

import contextlib
import gc
import os
import re
from pathlib import Path

import torch


def now_bytes(device: str) -> int:
    """Bytes now in use: tensors on the GPU, or resident pages."""
    if device == "cuda":
        return int(torch.cuda.memory_allocated())
    resident = int(Path("/proc/self/statm").read_text().split()[1])
    return resident * os.sysconf("SC_PAGE_SIZE")


def start_peak(device: str) -> None:
    """Start a new peak; `device` is "cuda" or "cpu"."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    with contextlib.suppress(OSError):  # if the kernel allows it (proc(5))
        Path("/proc/self/clear_refs").write_text("5")


def end_peak(device: str) -> int:
    """The peak in bytes since `start_peak`; frees unused memory."""
    gc.collect()
    peak = peak_bytes(device)
    if device == "cuda":
        torch.cuda.empty_cache()
    return peak


def peak_bytes(device: str) -> int:
    """The peak in bytes since `start_peak`; frees nothing."""
    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[1])  # type: ignore[index]
