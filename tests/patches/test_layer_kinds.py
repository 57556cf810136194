"""Kinds of layers, by vLLM's own cache specs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from patches import layer_kinds

pytestmark = pytest.mark.engine
HEADS = {"block_size": 32, "num_kv_heads": 2, "head_size": 64}


class Impl:
    """Attention with K and V per head."""

    def forward(self):
        """Never called."""


def attention(**more):
    return SimpleNamespace(impl=Impl(), kv_cache_dtype="auto", **more)


def test_a_layer_that_is_not_plain_attention_is_named_with_the_reason():
    from vllm.v1.kv_cache_interface import (
        ChunkedLocalAttentionSpec,
        FullAttentionSpec,
        MambaSpec,
        SinkFullAttentionSpec,
    )

    plain = FullAttentionSpec(**HEADS, dtype=torch.bfloat16)
    layers = {
        "plain": (attention(), plain),
        "shared": (attention(kv_sharing_target_layer_name="plain"), plain),
        "bypass": (attention(kv_cache_update_bypass=True), plain),
        "sink": (attention(), SinkFullAttentionSpec(**HEADS, dtype=torch.bfloat16, sink_len=4)),
        "encoder": (attention(), None),
        "latent": (SimpleNamespace(impl=object()), plain),
        "fp8": (attention(), FullAttentionSpec(**HEADS, dtype=torch.uint8)),
        "chunked": (
            attention(),
            ChunkedLocalAttentionSpec(**HEADS, dtype=torch.bfloat16, attention_chunk_size=64),
        ),
        "state": (
            SimpleNamespace(),
            MambaSpec(block_size=1024, shapes=((2, 256),), dtypes=(torch.bfloat16,)),
        ),
        "experts": (SimpleNamespace(), None),
    }
    kinds = layer_kinds.of_specs(
        {name: layer for name, (layer, _) in layers.items()},
        {name: spec for name, (_, spec) in layers.items()},
        torch.bfloat16,
    )
    assert kinds.unmeasured == {
        "shared": "no K and V of its own: it reads those of plain",
        "bypass": "the model writes K and V into the cache itself (kv_cache_update_bypass)",
        "sink": "its cache is vLLM's SinkFullAttentionSpec, not plain blocks of K and V per head",
        "encoder": "Impl is encoder-only attention: no KV cache",
        "latent": "object is latent attention (MLA): no K and V per head",
    }
    assert kinds.quantised == {"fp8": "auto"}
    assert kinds.states == {"state": "MambaSpec"}
    assert kinds.read_by_others == {"plain"}
    assert "chunked" not in kinds.not_captured(64)
    assert kinds.not_captured(65)["chunked"].endswith("2 virtual requests of 64")
    assert kinds.not_steered(64)["fp8"] == "its KV cache is auto"
