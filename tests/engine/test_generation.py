"""Generation in vLLM and in transformers, token by token, on a CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from harness import models
from harness.batch import prefill_steps
from harness.config import EngineSpec
from harness.engine import inengine
from harness.engine.child import EngineFailed
from harness.engine.generation import Generated, blocks_needed, generating
from harness.engine.inengine import Outcome
from harness.engine.transformers_model import TransformersModel
from tests.engines import ChildHere

PROMPTS = [[5, 9, 200, 31] * 10, [7], [90, 3] * 25]
TOKEN_BYTES = 2 * 3 * 128 * 2  # K and V, layers, all heads, bfloat16
STEP_TOKENS = 48


@pytest.fixture(scope="module")
def source(tiny_gpt2):
    return models.materialise(models.inspect(str(tiny_gpt2), length=120), seed=0)


@pytest.fixture(scope="module")
def transformers(source):
    return TransformersModel(source, "bfloat16", "cpu", seed=0)


@pytest.fixture(scope="module")
def vllm(tiny_gpt2, source):
    """An engine with steps of at most STEP_TOKENS tokens, and 20 blocks of 32 for requests."""
    spec = EngineSpec(
        120, 3, STEP_TOKENS, 32, enforce_eager=True, kv_cache_bytes=2**28, num_gpu_blocks_override=21
    )
    with ChildHere(generating, spec, source) as child:
        yield child


def test_what_a_window_has_passed_is_kept_as_the_formula_has_it(tiny_windowed):
    """First: its engine and that of the other tests are in this process, one after the other."""
    ids, each = (
        PROMPTS[0] * 2,
        2 * 2 * 1 * 64 * 2,
    )  # five windows; K and V, layers, KV heads, head size, bfloat16
    source = models.materialise(models.inspect(str(tiny_windowed), length=110), seed=0)
    with torch.inference_mode():
        model = TransformersModel(source, "bfloat16", "cpu", seed=0)
        cached, without = (model.generate(ids, 6, kept) for kept in (True, False))
    assert cached.tokens == without.tokens
    assert [step.cache_bytes for step in cached.steps] == [each * (80 + n) for n in range(6)]
    spec = EngineSpec(110, 1, 110, 32, enforce_eager=True, kv_cache_bytes=2**28, num_gpu_blocks_override=10)
    with ChildHere(generating, spec, source) as vllm:
        paged: Generated = vllm.ask("generate", [ids], 6)
    assert [step.cache_bytes for step in paged.steps] == [3 * 32 * each] * 6


def test_an_engine_says_what_it_has(vllm):
    facts = vllm.facts
    assert (facts.block_size, facts.num_blocks) == (32, 20)
    assert facts.block_bytes == 32 * TOKEN_BYTES
    assert facts.settings.attention_backend == ["CPU_ATTN"]


@pytest.mark.parametrize("prompts", [PROMPTS, PROMPTS[:1], [[1]]], ids=["three", "one", "one token"])
@pytest.mark.parametrize("output_len", [1, 6])
def test_every_prompt_gets_its_tokens_and_every_decoding_step_serves_all(vllm, prompts, output_len):
    done: Generated = vllm.ask("generate", prompts, output_len)
    assert [len(tokens) for tokens in done.tokens] == [output_len] * len(prompts)
    decoding = [step for step in done.steps if step.decoding]
    assert len(decoding) == output_len - 1
    assert all(step.seconds > 0 for step in done.steps)
    total = sum(map(len, prompts))
    first_steps = len(done.steps) - len(decoding)
    assert -(-total // STEP_TOKENS) <= first_steps <= prefill_steps(total, STEP_TOKENS)
    assert done.decode_seconds == pytest.approx(sum(step.seconds for step in decoding))


def test_blocks_are_counted_while_they_are_held_and_given_back(vllm):
    done: Generated = vllm.ask("generate", PROMPTS, 6)
    assert done.steps[-1].cache_bytes % vllm.facts.block_bytes == 0
    held = sum(-(-(len(prompt) + 5) // 32) for prompt in PROMPTS) * vllm.facts.block_bytes
    needed = sum(
        blocks_needed(len(prompt), 6, 32, prefill_steps(sum(map(len, PROMPTS)), STEP_TOKENS))
        for prompt in PROMPTS
    )
    assert held <= done.steps[-1].cache_bytes <= needed * vllm.facts.block_bytes
    again: Generated = vllm.ask("generate", [[1]], 2)
    assert again.steps[0].cache_bytes == vllm.facts.block_bytes


def test_an_engine_that_raises_goes_on(vllm):
    with pytest.raises(EngineFailed):
        vllm.ask("generate", [[1] * 500], 2)
    assert len(vllm.ask("generate", [[1]], 2).tokens[0]) == 2


@pytest.mark.parametrize("prompt", [[5], [5, 9, 200, 31] * 10], ids=["one token", "forty"])
def test_a_cache_changes_nothing_but_what_is_kept(transformers, prompt):
    with torch.inference_mode():
        without, with_cache = (transformers.generate(prompt, 7, kept) for kept in (False, True))
        usual = transformers._model.generate(
            torch.tensor([prompt]), max_new_tokens=7, min_new_tokens=7, do_sample=False, pad_token_id=0
        )
    assert with_cache.tokens == without.tokens
    assert list(with_cache.tokens[0][:5]) == usual[0, len(prompt) : len(prompt) + 5].tolist()
    assert [step.cache_bytes for step in without.steps] == [0] * 7
    sizes = [TOKEN_BYTES * (len(prompt) + n) for n in range(7)]
    assert [step.cache_bytes for step in with_cache.steps] == sizes
    assert [step.decoding for step in with_cache.steps] == [False] + [True] * 6


def test_vllm_generates_what_transformers_does(vllm, transformers):
    with torch.inference_mode():
        expected = [transformers.generate(prompt, 3, True).tokens[0] for prompt in PROMPTS]
    assert list(vllm.ask("generate", PROMPTS, 3).tokens) == expected


def test_first_logits_tell_rounding_from_other_weights(vllm, transformers, source):
    """vLLM's are transformers' of the same weights, and not those of the same shape drawn anew."""
    ids = PROMPTS[0]
    (token,) = vllm.ask("generate", [ids], 1).tokens[0]
    ours = Outcome(torch.from_numpy(vllm.ask("first_logits", ids))[None], (token,))
    assert int(ours.logits.argmax()) == token
    with torch.inference_mode():
        theirs, cached = (
            Outcome(
                torch.from_numpy(transformers.first_logits(ids, kept))[None],
                transformers.generate(ids, 1, kept).tokens[0],
            )
            for kept in (False, True)
        )
        others = TransformersModel(replace(source, load_format="dummy"), "bfloat16", "cpu", seed=3)
        redrawn = Outcome(
            torch.from_numpy(others.first_logits(ids, False))[None], others.generate(ids, 1, False).tokens[0]
        )
    assert inengine.difference(cached, theirs) < inengine.LOGITS_TOLERANCE
    assert inengine.objection(ours, theirs, ours) is None
    assert "the logits differ by" in (inengine.objection(ours, redrawn, ours) or "")
