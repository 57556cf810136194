"""The vLLM backends whose kernel can be given K and V from elsewhere in a running engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from harness.kernels import vllm_cpu, vllm_flash_attn
from patches.steering import Detour

# "module:name" by which a backend calls its kernel, by vLLM's name of the backend.
BACKEND_KERNELS = {
    "FLASH_ATTN": vllm_flash_attn.BACKEND_KERNEL,
    "CPU_ATTN": vllm_cpu.BACKEND_KERNEL,
}
PACKING = "K and V are packed into one block first: the CPU kernel reads no others"


def of(source: Literal["dense", "compact"]) -> dict[str, Detour]:
    """For every backend kernel a detour that makes it read this step's K and V, or a gathered copy."""
    flash, cpu = vllm_flash_attn.Detours(), vllm_cpu.Detours()
    if source == "dense":
        return {vllm_flash_attn.BACKEND_KERNEL: flash.dense, vllm_cpu.BACKEND_KERNEL: cpu.dense}
    return {vllm_flash_attn.BACKEND_KERNEL: flash.compact, vllm_cpu.BACKEND_KERNEL: cpu.compact}


def dense_remark(backends: Sequence[str]) -> str | None:
    """What a reader of the dense arms must know."""
    return PACKING if "CPU_ATTN" in backends else None
