"""KV cache groups: one where the layers' specs can become one kind, else vLLM's own; their blocks."""

from __future__ import annotations

import pytest
import torch

from patches import kv_cache_groups
from patches.block_groups import Groups

pytestmark = pytest.mark.engine
HEADS = {"num_kv_heads": 2, "head_size": 64, "dtype": torch.bfloat16}


def unify(specs):
    """What vLLM makes of the specs in an engine of the harness with blocks of 32 tokens."""
    symbol = next(symbol for symbol in kv_cache_groups.UNIFY if symbol.needed)
    module, _, name = symbol.path.partition(":")
    owner = __import__(module, fromlist=[name])
    untouched = getattr(owner, name)
    with kv_cache_groups.unifying(block_size=32):
        getattr(owner, name)(specs)
    assert getattr(owner, name) is untouched


def test_windows_take_the_engines_block_size_and_stay_windows():
    from vllm.v1.kv_cache_interface import FullAttentionSpec, SlidingWindowSpec

    specs = {
        "0": SlidingWindowSpec(block_size=16, sliding_window=20, **HEADS),
        "1": FullAttentionSpec(block_size=32, **HEADS),
    }
    unify(specs)
    assert [type(spec) for spec in specs.values()] == [FullAttentionSpec, FullAttentionSpec]
    assert [spec.block_size for spec in specs.values()] == [32, 32]
    assert [spec.sliding_window for spec in specs.values()] == [20, None]


def test_specs_that_cannot_become_one_kind_stay_as_they_are():
    from vllm.v1.kv_cache_interface import FullAttentionSpec, MambaSpec, SlidingWindowSpec

    specs = {
        "0": SlidingWindowSpec(block_size=16, sliding_window=20, **HEADS),
        "1": FullAttentionSpec(block_size=32, **HEADS),
        "2": MambaSpec(block_size=1024, shapes=((2, 256),), dtypes=(torch.bfloat16,)),
    }
    before = dict(specs)
    unify(specs)
    assert specs == before


def test_each_group_takes_its_blocks_in_turn_request_by_request():
    hybrid = Groups((("conv",), ("attention",)), block_sizes=(1024, 32), block_bytes=1, laid_out=1)
    lengths = [70, 32]
    assert hybrid.num_blocks(lengths) == 1 + 3 + 1 + 1
    assert hybrid.num_other_blocks(lengths) == 2
    order = hybrid.order(lengths, [[7, 9, 8], [5]], [20, 21, 22])
    assert order == [20, 7, 9, 8, 21, 5]
    assert hybrid.pick(lengths, order) == [[7, 9, 8], [5]]
