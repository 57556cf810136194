"""The names for `--kernels`, without importing torch; the kernels are in `harness.kernels.listed`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle

Look = tuple[str, str]  # "#rrggbb", and a marker of harness.report.charts.svg.MARKERS


@dataclass(frozen=True)
class KernelName:
    """What is known of a kernel without importing it."""

    name: str
    block_table: (
        bool  # whether it reads one; otherwise it needs a gather before it can run on a fragmented cache
    )
    look: Look | None = None  # None: the next free one


FUNCTIONS = ("flash_attn_func", "flash_attn_qkvpacked_func", "flash_attn_with_kvcache")
TITLES = dict(zip(FUNCTIONS, ("Basic Attention", "Packed QKV Attention", "KV Cache Attention"), strict=True))
# Okabe and Ito's colours, told apart by colour-blind readers, then Paul Tol's; the markers tell them apart in
# greyscale.
KERNELS = (
    KernelName(FUNCTIONS[0], False, ("#0072B2", "circle")),
    KernelName(FUNCTIONS[1], False, ("#D55E00", "square")),
    KernelName(FUNCTIONS[2], True, ("#009E73", "triangle")),
    KernelName("vllm-fa2", True, ("#CC79A7", "triangle down")),
    KernelName("vllm-fa3", True, ("#E69F00", "triangle left")),
    KernelName("vllm-fa4", True, ("#56B4E9", "triangle right")),
    KernelName("vllm-triton", True, ("#882255", "plus")),
    KernelName("vllm-cpu", True, ("#999933", "x")),
    KernelName("fa4", True, ("#332288", "star")),
    KernelName("flashinfer-paged", True, ("#AA4499", "pentagon")),
    KernelName("flashinfer-ragged", False, ("#44AA99", "hexagon")),
    KernelName("sdpa-math", False, ("#661100", "thin diamond")),
    KernelName("sdpa-flash", False, ("#888888", "octagon")),
    KernelName("sdpa-efficient", False, ("#DDCC77", "flat hexagon")),
    KernelName("sdpa-cudnn", False, ("#117733", "diamond")),
)
KNOWN = tuple(kernel.name for kernel in KERNELS)
WITH_TABLE = tuple(kernel.name for kernel in KERNELS if kernel.block_table)
WITHOUT_TABLE = tuple(kernel.name for kernel in KERNELS if not kernel.block_table)


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Each kernel's colour and marker, also for kernels that exist only in a stored run.

    A kernel that declares none gets an unused pair, in order of name.
    """
    declared = {kernel.name: kernel.look for kernel in KERNELS if kernel.look}
    colours, markers = zip(*declared.values(), strict=True)
    pairs = (
        (colours[n], markers[n - shift]) for shift in range(1, len(colours)) for n in range(len(colours))
    )
    free = cycle([pair for pair in pairs if pair not in declared.values()])
    return declared | dict(zip(sorted({*KNOWN, *names} - declared.keys()), free, strict=False))


def gather_for(kernel: str) -> str:
    """The name of the gather that is timed for a kernel without a block table."""
    own = {FUNCTIONS[0]: "gather_kv", FUNCTIONS[1]: "gather_qkv"}
    return own.get(kernel, f"gather_kv for {kernel}")


def problem(said: str, name: str) -> str | None:
    """One line about a name that no kernel has; None for a known name.

    Args:
        said: the option with what was written, e.g. "--kernels sdpa-mat".
    """
    if name in KNOWN:
        return None
    near = ", ".join(difflib.get_close_matches(name, KNOWN, 3, cutoff=0))
    return f"{said}: no such kernel; take one of the nearest, {near}, or leave it out"
