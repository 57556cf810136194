"""Every kernel that the harness knows, with its declaration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from harness.calls.capture import AttentionCall
from harness.config.kernel_names import FUNCTIONS
from harness.kernels.flash_attn_4 import FlashAttention4, VllmFlashAttention4
from harness.kernels.flash_attn_func import FlashAttnFunc
from harness.kernels.flash_attn_qkvpacked import FlashAttnQkvPacked
from harness.kernels.flash_attn_with_kvcache import FlashAttnWithKvcache
from harness.kernels.flashinfer_prefill import FlashInferPaged, FlashInferRagged
from harness.kernels.protocol import DenseKV, Kernel, PagedKV, Run
from harness.kernels.support import Declared, Support
from harness.kernels.torch_sdpa import TorchSdpa
from harness.kernels.vllm_cpu import VllmCpuAttention
from harness.kernels.vllm_flash_attn import VllmFlashAttention
from harness.kernels.vllm_triton import VllmTritonAttention


class DeclaredKernel(Kernel, Declared, Protocol):
    """An adapter that enforces its declaration: anything not in it is refused."""


@dataclass(frozen=True)
class Listed:
    """An adapter under a short name, for tables."""

    label: str
    kernel: DeclaredKernel

    @property
    def option(self) -> str:
        """Its name in `--kernels`; flash-attn's functions and their stand-ins use the function's name."""
        return self.name if self.name in FUNCTIONS else self.label.lower().replace(" ", "-")

    @property
    def name(self) -> str:
        return self.kernel.name

    @property
    def provider(self) -> str:
        return self.kernel.provider

    @property
    def support(self) -> Support:
        return self.kernel.support

    def dense(self, call: AttentionCall, kv: DenseKV) -> Run:
        return self.kernel.dense(call, kv)

    def paged(self, call: AttentionCall, kv: PagedKV) -> Run:
        return self.kernel.paged(call, kv)


def all_kernels(device: str) -> list[Listed]:
    """All kernels, including those that cannot run here; SDPA's as on `device` ("cuda" or "cpu")."""
    kernels: dict[str, DeclaredKernel] = {
        "FA2 func": FlashAttnFunc(),
        "FA2 qkvpacked": FlashAttnQkvPacked(),
        "FA2 with_kvcache": FlashAttnWithKvcache(),
        "vLLM FA2": VllmFlashAttention(2),
        "vLLM FA3": VllmFlashAttention(3),
        "vLLM FA4": VllmFlashAttention4(),
        "vLLM Triton": VllmTritonAttention(),
        "vLLM CPU": VllmCpuAttention(),
        "FA4": FlashAttention4(),
        "FlashInfer paged": FlashInferPaged(),
        "FlashInfer ragged": FlashInferRagged(),
        "SDPA math": TorchSdpa("math", device),
        "SDPA flash": TorchSdpa("flash", device),
        "SDPA efficient": TorchSdpa("efficient", device),
        "SDPA cudnn": TorchSdpa("cudnn", device),
    }
    if device == "cpu":
        from harness.kernels.sdpa import StandIn

        kernels |= {
            "SDPA as func": StandIn.func(),
            "SDPA as qkvpacked": StandIn.qkvpacked(),
            "SDPA as kvcache": StandIn.with_kvcache(),
        }
    return [Listed(label, kernel) for label, kernel in kernels.items()]


def by_option(device: str) -> dict[str, Listed]:
    """All kernels by their names in `--kernels`; on a CPU the three functions are stand-ins."""
    return {listed.option: listed for listed in all_kernels(device)}
