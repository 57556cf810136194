"""Overrides of the engine's kernel: what they change of its call, and that "paged" changes nothing."""

from __future__ import annotations

import pytest
import torch

from harness.kernels import overrides, vllm_flash_attn, vllm_triton
from patches.steering import LayerStep

TOKENS, PADDED = 6, 8
STEP = LayerStep(
    layer=None,
    key=torch.randn(PADDED, 2, 4),
    value=torch.randn(PADDED, 2, 4),
    kv_cache=torch.zeros(3, 2, 4, 8),
    lengths=(TOKENS,),
)


def arguments():
    """Of the backend's call; FA3's schedule is left to the kernel."""
    cache = torch.randn(3, 4, 2, 4)
    return {
        "q": torch.randn(TOKENS, 2, 4),
        "k": cache,
        "v": cache.clone(),
        "cu_seqlens_q": torch.tensor([0, TOKENS]),
        "seqused_k": torch.tensor([TOKENS]),
        "block_table": torch.tensor([[2, 1]]),
        "scheduler_metadata": None,
    }


@pytest.mark.parametrize("backend", [vllm_flash_attn, vllm_triton])
def test_paged_makes_the_engine_s_own_call_and_dense_another(backend):
    calls = []
    given = arguments()
    override = backend.KernelOverrides()
    override.paged(lambda **kwargs: calls.append(kwargs), given, STEP)
    override.dense(lambda **kwargs: calls.append(kwargs), given, STEP)
    paged, dense = calls
    assert {name: value for name, value in paged.items() if value is not None}.keys() == given.keys() - {
        "scheduler_metadata"
    }
    assert all(paged[name] is value for name, value in given.items())
    assert dense["q"] is given["q"]
    assert dense["k"].data_ptr() == STEP.key.data_ptr()
    assert dense["v"].data_ptr() == STEP.value.data_ptr()
    assert dense["block_table"] is not given["block_table"]


def test_on_a_cpu_paged_attention_is_left_alone():
    paged = overrides.by_source()["paged"]
    assert overrides.BACKEND_KERNELS["CPU_ATTN"] not in paged
    assert len(paged) == len(overrides.BACKEND_KERNELS) - 1
