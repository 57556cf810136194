"""The call of a whole prefill out of those of its steps: made up, and of a real engine."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness import prompt
from harness.calls import capture, joined_call
from harness.calls.capture import AttentionCall
from harness.calls.shape import AttentionShape
from harness.engine.child import Child
from harness.engine.generation import generating
from harness.kernels import reference
from harness.replay import random_call
from tests.engines import inputs

BATCH, TOKENS = 3, 23
SHAPE = AttentionShape(BATCH, TOKENS, TOKENS, num_heads=4, num_kv_heads=2, head_dim=8, dtype="float32")


def made_up() -> AttentionCall:
    """A prefill of BATCH requests of TOKENS tokens in one step."""
    return random_call.make(SHAPE, "cpu", seed=0)


def cut(call: AttentionCall, per_step: int) -> list[AttentionCall]:
    """The call as vLLM cuts it into steps of so many tokens: the last request of a step goes on in the next.

    A request that is through gives its blocks back, so the one after the next has the same first block.
    """
    steps = []
    for start in range(0, BATCH * TOKENS, per_step):
        end = min(start + per_step, BATCH * TOKENS)
        there = [n for n in range(BATCH) if n * TOKENS < end and (n + 1) * TOKENS > start]
        bounds = [(max(start, n * TOKENS) - start, min(end, (n + 1) * TOKENS) - start) for n in there]
        steps.append(
            replace(
                call,
                query=call.query[start:end],
                key=call.key[start:end],
                value=call.value[start:end],
                block_table=torch.tensor([[n % 2 + 7, 0] for n in there]),
                query_start_loc=torch.tensor([0, *(last for _, last in bounds)]),
                seq_lens=torch.tensor([min(end - n * TOKENS, TOKENS) for n in there]),
            )
        )
    return steps


@given(st.integers(1, BATCH * TOKENS))
def test_steps_come_together_as_if_there_had_been_one(per_step):
    call = made_up()
    if per_step >= 2 * TOKENS:  # requests of one step have blocks of their own
        per_step = 2 * TOKENS - 1
    joined = joined_call.of_steps([joined_call.part(step) for step in cut(call, per_step)])
    assert joined.lengths == call.lengths
    assert torch.equal(joined.query_start_loc, call.query_start_loc)
    for name in ("query", "key", "value"):
        assert torch.equal(getattr(joined, name), getattr(call, name))


def test_the_last_token_s_call_is_the_last_row_of_the_prefill_s():
    call = made_up()
    whole = reference.attention_rows(call, torch.arange(call.num_tokens))
    step = joined_call.last_token(call)
    assert step.num_tokens == BATCH
    rows = reference.attention_rows(step, torch.arange(BATCH))
    torch.testing.assert_close(rows, whole[TOKENS - 1 :: TOKENS])


@pytest.mark.engine
def test_a_batch_of_several_steps_is_captured_as_each_prompt_alone(tiny_gpt2, tmp_path):
    spec, source = inputs(tiny_gpt2, length=91, block_size=32, dtype="float32")
    prompts = [prompt.random_ids(source, 90, n) for n in range(BATCH)]
    spec = replace(spec, max_num_seqs=BATCH, max_num_batched_tokens=64, kv_cache_bytes=2**20)
    with Child(generating, spec, source) as engine:
        engine.ask("capture", prompts, tmp_path / "all.safetensors")
        for n, ids in enumerate(prompts):
            engine.ask("capture", [ids], tmp_path / f"{n}.safetensors")
    together = capture.load_own(tmp_path / "all.safetensors", "cpu")
    assert together.lengths == (90,) * BATCH
    for n in range(BATCH):
        alone = capture.load_own(tmp_path / f"{n}.safetensors", "cpu")
        mine = slice(90 * n, 90 * (n + 1))
        for name in ("query", "key", "value"):
            torch.testing.assert_close(
                getattr(together, name)[mine], getattr(alone, name), rtol=1e-4, atol=1e-5
            )
    assert not torch.equal(together.key[:90], together.key[90:180])
