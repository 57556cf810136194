"""Every kernel that the harness knows, with its declaration."""

from __future__ import annotations

from dataclasses import dataclass

from harness.capture import AttentionCall
from harness.kernels import vllm_support
from harness.kernels.flash_attn_4 import FlashAttention4, VllmFlashAttention4
from harness.kernels.flash_attn_func import FlashAttnFunc
from harness.kernels.flash_attn_qkvpacked import FlashAttnQkvPacked
from harness.kernels.flash_attn_with_kvcache import FlashAttnWithKvcache
from harness.kernels.flashinfer_prefill import FlashInferPaged, FlashInferRagged
from harness.kernels.protocol import DenseKV, Kernel, PagedKV, Run
from harness.kernels.support import Support, require
from harness.kernels.torch_sdpa import TorchSdpa
from harness.kernels.vllm_cpu import VllmCpuAttention
from harness.kernels.vllm_flash_attn import VllmFlashAttention
from harness.kernels.vllm_triton import VllmTritonAttention


@dataclass(frozen=True)
class Listed:
    """An adapter with its declaration, which it is held to: what is not in it is refused."""

    label: str  # short, for tables
    kernel: Kernel
    support: Support

    @property
    def name(self) -> str:
        return self.kernel.name

    @property
    def provider(self) -> str:
        return self.kernel.provider

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        require(self, call)
        return self.kernel.dense(call, kv)

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        require(self, call, kv.block_size)
        return self.kernel.paged(call, kv)


def all_kernels(device: str) -> list[Listed]:
    """All kernels, those too that cannot run here; SDPA's as they are on `device` ("cuda" or "cpu")."""
    func, packed, cached = FlashAttnFunc(), FlashAttnQkvPacked(), FlashAttnWithKvcache()
    listed = [
        Listed("FA2 func", func, func.support),
        Listed("FA2 qkvpacked", packed, packed.support),
        Listed("FA2 with_kvcache", cached, cached.support),
        Listed("vLLM FA2", VllmFlashAttention(2), vllm_support.FA2),
        Listed("vLLM FA3", VllmFlashAttention(3), vllm_support.FA3),
        Listed("vLLM FA4", VllmFlashAttention4(), VllmFlashAttention4.support),
        Listed("vLLM Triton", VllmTritonAttention(), VllmTritonAttention.support),
        Listed("vLLM CPU", VllmCpuAttention(), vllm_support.CPU),
        Listed("FA4", FlashAttention4(), FlashAttention4.support),
        Listed("FlashInfer paged", FlashInferPaged(), FlashInferPaged.support),
        Listed("FlashInfer ragged", FlashInferRagged(), FlashInferRagged.support),
    ]
    for backend in ("math", "flash", "efficient", "cudnn"):
        sdpa = TorchSdpa(backend, device)
        listed.append(Listed(f"SDPA {backend}", sdpa, sdpa.support))
    if device == "cpu":
        from harness.kernels.sdpa import StandIn

        stand_ins = {
            "func": StandIn.func(),
            "qkvpacked": StandIn.qkvpacked(),
            "kvcache": StandIn.with_kvcache(),
        }
        listed += [Listed(f"SDPA as {short}", one, one.support) for short, one in stand_ins.items()]
    return listed
