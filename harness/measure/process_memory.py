"""What this process holds, by every counter that there is here; each says what it counts."""

from __future__ import annotations

import contextlib
import gc
import os
import re
from pathlib import Path
from typing import Any

import torch

from harness import device

NO_CUDA = "none on a CPU, where PyTorch does not count"


class Meter:
    """Reads the counters; made before anything of the job is in memory.

    Attributes:
        sources: of each figure, what says it, or why there is none.
    """

    def __init__(self, device_kind: device.Kind) -> None:
        self._cuda = device_kind == "cuda"
        self._gpu = device.nvidia_devices()[0] if self._cuda else None
        self._before = self._whole_gpu() if self._cuda else 0
        self.sources = {
            "allocated": "torch.cuda.memory_allocated, live tensors" if self._cuda else NO_CUDA,
            "reserved": "torch.cuda.memory_reserved, allocated and kept for reuse" if self._cuda else NO_CUDA,
            "NVML": "none without an NVIDIA GPU",
            "RSS": "VmRSS of /proc/self/status, resident pages",
        }

    def read(self) -> dict[str, int]:
        """Bytes by name; peaks are those since the last reading. A counter that is not here is left out."""
        gc.collect()
        found = {"rss_bytes": _status("VmRSS"), "peak_rss_bytes": _status("VmHWM")}
        with contextlib.suppress(OSError):  # where the kernel lets a process begin a new peak (proc(5))
            Path("/proc/self/clear_refs").write_text("5")
        if self._cuda:
            torch.cuda.synchronize()
            found["allocated_bytes"] = torch.cuda.memory_allocated()
            found["peak_allocated_bytes"] = torch.cuda.max_memory_allocated()
            found["reserved_bytes"] = torch.cuda.memory_reserved()
            found["nvml_bytes"] = self._by_nvml()
            torch.cuda.reset_peak_memory_stats()
        return found

    def _by_nvml(self) -> int:
        """What NVML has for this process; where it does not know it (in a container), what the GPU gained."""
        import pynvml

        processes: list[Any] = []
        with contextlib.suppress(pynvml.NVMLError):
            processes = pynvml.nvmlDeviceGetComputeRunningProcesses(self._gpu)
        own = [p.usedGpuMemory for p in processes if p.pid == os.getpid() and p.usedGpuMemory]
        if own:
            self.sources["NVML"] = "NVML's figure for this process"
            return int(own[0])
        self.sources["NVML"] = "NVML's figure for the whole GPU, less what was in use before"
        return max(0, self._whole_gpu() - self._before)

    def _whole_gpu(self) -> int:
        import pynvml

        return int(pynvml.nvmlDeviceGetMemoryInfo(self._gpu).used)


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])
