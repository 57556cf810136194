"""Engines of different sizes in one process, one after the other: none finds anything of the one before."""

from __future__ import annotations

import os
import weakref
from dataclasses import replace
from typing import Any

import psutil
import pytest
import torch

from harness import layout
from harness.engine.engine import Engine
from harness.engine.options import EngineError
from patches.steering import Override
from tests.engines import inputs

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("inference_mode")]
SIZES = [(300, 32), (4000, 128), (60, 64)]  # tokens of the prompt and of a block


def start(model, length, block_size, **changes):
    spec, source = inputs(model, length=length, block_size=block_size)
    return Engine(replace(spec, **changes), source)


def patched():
    """What the harness replaces in vLLM while engines start and run."""
    from vllm import _custom_ops
    from vllm.model_executor.models.gpt2 import GPT2Model
    from vllm.v1.core import kv_cache_utils

    return (
        GPT2Model.load_weights,
        kv_cache_utils.unify_hybrid_kv_cache_specs,
        _custom_ops.cpu_attention_with_kv_cache,
    )


def prefilled(engine, length, block_size):
    """First tokens of one prompt in one segment, in as many segments as blocks, and by way of two
    overrides.
    """
    prompt = [[(7 * n + n * n) % 512 for n in range(length)]]
    blocks = layout.num_blocks(length, block_size)
    free = engine.free_block_ids()
    one_segment = [layout.plan(blocks, 1, free)]
    split = [layout.plan(blocks, blocks, free[blocks:], seed=1)]
    arms = [
        (one_segment, None),
        (split, None),
        (one_segment, Override("dense")),
        (split, Override("compact")),
    ]
    return [engine.prefill(prompt, ids, override).first_tokens for ids, override in arms]


def test_an_engine_finds_nothing_of_the_one_before(tiny_gpt2):
    process, functions = psutil.Process(), ()
    variables: dict[str, str] = {}
    others = process.children(recursive=True)  # of tests before this one
    found: dict[tuple[int, int], Any] = {}
    for length, block_size in [*SIZES, SIZES[0]]:
        with start(tiny_gpt2, length, block_size) as engine:
            assert engine.settings.max_num_batched_tokens == length + 1
            assert engine.block_size == block_size
            of_each = prefilled(engine, length, block_size)
            assert len(set(of_each)) == 1
            assert found.setdefault((length, block_size), of_each) == of_each  # as in the first engine
            parts = [weakref.ref(part) for part in (engine.llm, engine.block_pool, engine.ranks.only)]
        assert [part() for part in parts] == [None] * 3  # with the layers, and so with their caches
        assert set(process.children(recursive=True)) <= set(others)
        ours = {name: value for name, value in os.environ.items() if name.startswith(("VLLM_CPU", "PREFILL"))}
        variables, functions = variables or ours, functions or patched()
        assert ours == variables
        assert patched() == functions


def test_an_engine_starts_after_one_that_did_not(tiny_gpt2):
    before = dict(os.environ)
    with pytest.raises(EngineError, match="vLLM cannot start"):
        start(tiny_gpt2, 300, 32, max_num_seqs=10_000, max_num_batched_tokens=20)
    assert {name for name in os.environ if name.startswith("VLLM_CPU")} <= before.keys()
    functions = patched()
    with start(tiny_gpt2, 300, 32, engine_options={"scheduling_policy": "priority"}) as engine:
        assert engine.llm.vllm_config.scheduler_config.policy == "priority"
        assert len(set(prefilled(engine, 300, 32))) == 1
    assert patched() == functions
    assert torch.is_inference_mode_enabled()
