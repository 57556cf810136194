"""The vLLM backends whose kernel can be given K and V from elsewhere in a running engine."""

from __future__ import annotations

from collections.abc import Sequence

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
    "TRITON_ATTN": "dense K and V are read in place, as one block: "
    "the Triton kernel reads nothing without a block table",
    "CPU_ATTN": "dense K and V are packed into one block first: the CPU kernel reads no others",
}


def by_source() -> dict[str, dict[str, Detour]]:
    """For every backend kernel a detour that makes it read this step's K and V ("dense"), or a gathered copy
    ("compact")."""
    flash, triton, cpu = vllm_flash_attn.Detours(), vllm_triton.Detours(), vllm_cpu.Detours()
    addresses = BACKEND_KERNELS.values()
    return {
        "dense": dict(zip(addresses, (flash.dense, triton.dense, cpu.dense), strict=True)),
        "compact": dict(zip(addresses, (flash.compact, triton.compact, cpu.compact), strict=True)),
    }


def dense_remark(backends: Sequence[str]) -> str | None:
    """What a reader of the dense arms must know."""
    return "; ".join(REMARKS[backend] for backend in backends if backend in REMARKS) or None
