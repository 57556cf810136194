"""How much memory this process holds: what PyTorch allocated on the GPU, or what is resident on a CPU."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import torch

SOURCE = {"cuda": "torch.cuda.memory_allocated", "cpu": "resident memory of the process (RSS)"}


def now_bytes() -> int:
    """Bytes at this moment; pages and tensors that are free for other use are not counted on a GPU."""
    if torch.cuda.is_available():
        return int(torch.cuda.memory_allocated())
    resident = int(Path("/proc/self/statm").read_text().split()[1])
    return resident * os.sysconf("SC_PAGE_SIZE")


def start_peak() -> None:
    """Count the peak from here on, on a CPU where the kernel lets a process do that (proc(5))."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_bytes() -> int:
    """The most bytes at any moment since `start_peak`."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)[1])  # type: ignore[index]
