"""Overrides of vLLM's kernels that make them read K and V from elsewhere in a running engine."""

from __future__ import annotations

from collections.abc import Sequence

from harness.kernels import vllm_cpu, vllm_flash_attn, vllm_triton
from patches.steering import KernelOverride

# Backend's name in vLLM -> "module:name" by which it calls its kernel.
BACKEND_KERNELS = {
    "FLASH_ATTN": vllm_flash_attn.BACKEND_KERNEL,
    "TRITON_ATTN": vllm_triton.BACKEND_KERNEL,
    "CPU_ATTN": vllm_cpu.BACKEND_KERNEL,
}
# How a kernel that always needs a block table reads this step's own K and V.
REMARKS = {
    "TRITON_ATTN": "dense K and V are read in place, as one block: "
    "the Triton kernel always needs a block table",
    "CPU_ATTN": "dense K and V are packed into one block first: the CPU kernel needs packed blocks",
}


def by_source() -> dict[str, dict[str, KernelOverride]]:
    """Overrides by source and backend kernel: "dense" reads this step's own K and V, "compact" a gathered
    copy, "paged" the cache as ever, after the host's work for "dense".

    On a CPU, where the host is the device, "paged" changes nothing: "dense" packs K and V first.
    """
    flash, triton, cpu = (
        vllm_flash_attn.KernelOverrides(),
        vllm_triton.KernelOverrides(),
        vllm_cpu.KernelOverrides(),
    )
    addresses = BACKEND_KERNELS.values()
    return {
        "dense": dict(zip(addresses, (flash.dense, triton.dense, cpu.dense), strict=True)),
        "paged": dict(zip(addresses, (flash.paged, triton.paged), strict=False)),
        "compact": dict(zip(addresses, (flash.compact, triton.compact, cpu.compact), strict=True)),
    }


def dense_remark(backends: Sequence[str]) -> str | None:
    """A remark on the dense arms, or None."""
    return "; ".join(REMARKS[backend] for backend in backends if backend in REMARKS) or None
