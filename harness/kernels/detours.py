"""The vLLM backends whose kernel can be given K and V from elsewhere in a running engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from harness.kernels import vllm_cpu, vllm_flash_attn, vllm_triton
from patches.steering import Detour

# "module:name" by which a backend calls its kernel, by vLLM's name of the backend.
BACKEND_KERNELS = {
    "FLASH_ATTN": vllm_flash_attn.BACKEND_KERNEL,
    "TRITON_ATTN": vllm_triton.BACKEND_KERNEL,
    "CPU_ATTN": vllm_cpu.BACKEND_KERNEL,
}
# How a kernel that has no form without a block table reads this step's own K and V.
REMARKS = {
    "TRITON_ATTN": "read in place, as one block: the Triton kernel reads nothing without a block table",
    "CPU_ATTN": "K and V are packed into one block first: the CPU kernel reads no others",
}


def of(source: Literal["dense", "compact"]) -> dict[str, Detour]:
    """For every backend kernel a detour that makes it read this step's K and V, or a gathered copy."""
    flash, triton, cpu = vllm_flash_attn.Detours(), vllm_triton.Detours(), vllm_cpu.Detours()
    if source == "dense":
        chosen = flash.dense, triton.dense, cpu.dense
    else:
        chosen = flash.compact, triton.compact, cpu.compact
    return dict(zip(BACKEND_KERNELS.values(), chosen, strict=True))


def dense_remark(backends: Sequence[str]) -> str | None:
    """What a reader of the dense arms must know."""
    return "; ".join(REMARKS[backend] for backend in backends if backend in REMARKS) or None
