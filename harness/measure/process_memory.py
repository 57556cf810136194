"""The memory of this process by every available counter; each says what it counts."""

from __future__ import annotations

import contextlib
import gc
import os
import re
from pathlib import Path
from typing import Any

import torch

from harness import device

NO_CUDA = "none on a CPU, where PyTorch has no counter"


class Meter:
    """Reads the counters; created before the job allocates anything.

    Attributes:
        sources: for each figure its counter, or why there is none.
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
        """Bytes by name; peaks since the last reading. Missing counters are left out."""
        gc.collect()
        readings = {"rss_bytes": _status("VmRSS"), "peak_rss_bytes": _status("VmHWM")}
        with contextlib.suppress(OSError):  # if the kernel lets a process start a new peak (proc(5))
            Path("/proc/self/clear_refs").write_text("5")
        if self._cuda:
            torch.cuda.synchronize()
            readings["allocated_bytes"] = torch.cuda.memory_allocated()
            readings["peak_allocated_bytes"] = torch.cuda.max_memory_allocated()
            readings["reserved_bytes"] = torch.cuda.memory_reserved()
            readings["nvml_bytes"] = self._by_nvml()
            torch.cuda.reset_peak_memory_stats()
        return readings

    def _by_nvml(self) -> int:
        """NVML's figure for this process, or in a container, where NVML does not know it, the GPU's
        increase.
        """
        import pynvml

        processes: list[Any] = []
        with contextlib.suppress(pynvml.NVMLError):
            processes = pynvml.nvmlDeviceGetComputeRunningProcesses(self._gpu)
        own = [p.usedGpuMemory for p in processes if p.pid == os.getpid() and p.usedGpuMemory]
        if own:
            self.sources["NVML"] = "NVML's figure for this process"
            return int(own[0])
        self.sources["NVML"] = "NVML's figure for the whole GPU, minus what was in use before"
        return max(0, self._whole_gpu() - self._before)

    def _whole_gpu(self) -> int:
        import pynvml

        return int(pynvml.nvmlDeviceGetMemoryInfo(self._gpu).used)


def _status(name: str) -> int:
    """A line of /proc/self/status, in bytes."""
    match = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert match is not None
    return 1024 * int(match[1])
