"""Kernels: one adapter per file, one protocol, and a declaration of what each supports."""

from __future__ import annotations

from harness.calls.capture import AttentionCall
from harness.kernels.protocol import (
    DenseKV,
    EngineKernel,
    Kernel,
    NoAdapter,
    Output,
    PagedKV,
    Run,
    Unsupported,
)

__all__ = [
    "DenseKV",
    "EngineKernel",
    "Kernel",
    "NoAdapter",
    "Output",
    "PagedKV",
    "Run",
    "Unsupported",
    "flash_attn_functions",
    "for_engine",
]


def for_engine(call: AttentionCall) -> EngineKernel:
    """The adapter for the kernel that produced `call.output`."""
    if call.backend == "FLASH_ATTN" and call.fa_version in (2, 3):
        from harness.kernels.vllm_flash_attn import VllmFlashAttention

        return VllmFlashAttention(call.fa_version)
    if call.backend == "FLASH_ATTN" and call.fa_version == 4:
        from harness.kernels.flash_attn_4 import VllmFlashAttention4

        return VllmFlashAttention4()
    if call.backend == "TRITON_ATTN":
        from harness.kernels.vllm_triton import VllmTritonAttention

        return VllmTritonAttention()
    if call.backend == "CPU_ATTN":
        from harness.kernels.vllm_cpu import VllmCpuAttention

        return VllmCpuAttention()
    return NoAdapter(f"{call.backend}{call.fa_version or ''}")


def flash_attn_functions(device: str) -> tuple[Kernel, Kernel, Kernel]:
    """flash-attn's three functions; on a CPU their stand-ins through PyTorch's SDPA."""
    if device == "cpu":
        from harness.kernels import sdpa

        return sdpa.StandIn.func(), sdpa.StandIn.qkvpacked(), sdpa.StandIn.with_kvcache()
    from harness.kernels.flash_attn_func import FlashAttnFunc
    from harness.kernels.flash_attn_qkvpacked import FlashAttnQkvPacked
    from harness.kernels.flash_attn_with_kvcache import FlashAttnWithKvcache

    return FlashAttnFunc(), FlashAttnQkvPacked(), FlashAttnWithKvcache()
