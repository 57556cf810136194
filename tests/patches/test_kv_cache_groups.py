"""Cache specs of layers with and without a window end as one kind, with one block size."""

from __future__ import annotations

import pytest
import torch

from patches import kv_cache_groups

pytestmark = pytest.mark.engine
HEADS = {"num_kv_heads": 2, "head_size": 64, "dtype": torch.bfloat16}


def test_windows_take_the_engines_block_size_and_stay_windows():
    from vllm.v1.core import kv_cache_utils
    from vllm.v1.kv_cache_interface import FullAttentionSpec, SlidingWindowSpec

    specs = {
        "0": SlidingWindowSpec(block_size=16, sliding_window=20, **HEADS),
        "1": FullAttentionSpec(block_size=32, **HEADS),
    }
    untouched = kv_cache_utils.unify_hybrid_kv_cache_specs
    with kv_cache_groups.unifying(block_size=32):
        kv_cache_utils.unify_hybrid_kv_cache_specs(specs)
    assert kv_cache_utils.unify_hybrid_kv_cache_specs is untouched
    assert [type(spec) for spec in specs.values()] == [FullAttentionSpec, FullAttentionSpec]
    assert [spec.block_size for spec in specs.values()] == [32, 32]
    assert [spec.sliding_window for spec in specs.values()] == [20, None]
