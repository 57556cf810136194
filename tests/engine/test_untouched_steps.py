"""Steps that are no pure prefill, in a real engine that is steered: they run as if it were not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from harness.engine.engine import Engine
from patches.steering import Override
from tests.engines import inputs

pytestmark = pytest.mark.engine

LENGTH, BLOCK_SIZE, CHUNK = 200, 32, 96
# Were a decode, a chunk or a prefix hit to run on it, it would find no cache, and no K and V but its own.
BLIND = Override("dense", write_cache=False)


@pytest.fixture(scope="module")
def engine(tiny_gpt2):
    """With a prefix cache, chunked prompts and several requests in a step, none of which the main job has."""
    spec, source = inputs(tiny_gpt2, length=LENGTH, block_size=BLOCK_SIZE)
    served = replace(spec, enable_prefix_caching=True, max_num_seqs=4, max_num_batched_tokens=CHUNK)
    with torch.inference_mode(), Engine(served, source) as engine:
        yield engine


@pytest.fixture
def forgetful(engine):
    """The engine, with nothing in its prefix cache before the test and after."""
    engine.llm.reset_prefix_cache()
    yield engine
    engine.llm.reset_prefix_cache()


def prompt(start: int, length: int) -> list[int]:
    return [(7 * n + n * n + start) % 512 for n in range(length)]


def generated(engine, *prompts: list[int], tokens: int = 1, ahead: int = 0) -> list[list[int]]:
    """Greedy tokens of each prompt; all but the first join the engine after `ahead` steps."""
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=tokens, temperature=0.0, ignore_eos=True, detokenize=False)
    found: dict[str, list[int]] = {}

    def step() -> None:
        for output in engine.llm.step():
            found[output.request_id] = list(output.outputs[0].token_ids)

    for n, one in enumerate(prompts):
        if n == 1:
            for _ in range(ahead):
                step()
        engine.llm.add_request(f"test {n}", {"prompt_token_ids": one}, params)
    while engine.llm.has_unfinished_requests():
        step()
    return [found[key] for key in sorted(found)]


def steps(engine) -> tuple[int, int]:
    """How many were steered so far, and how many were left alone."""
    steering = engine.ranks.only.steering
    return steering.steered, steering.untouched


def test_a_chunked_prompt_is_left_untouched(forgetful):
    long = prompt(1, LENGTH)
    expected = generated(forgetful, long)
    forgetful.llm.reset_prefix_cache()
    before = steps(forgetful)
    with forgetful.ranks.only.steering.on(BLIND):
        assert generated(forgetful, long) == expected
    chunks = -(-LENGTH // CHUNK)
    assert steps(forgetful) == (before[0], before[1] + chunks)


def test_a_prefix_hit_is_left_untouched(forgetful):
    seen = prompt(2, 90)
    expected = generated(forgetful, seen)  # and its blocks stay in the prefix cache
    before = steps(forgetful)
    with forgetful.ranks.only.steering.on(BLIND):
        assert generated(forgetful, seen) == expected
    assert steps(forgetful) == (before[0], before[1] + 1)


def test_decodes_and_prefills_in_one_step_are_left_untouched(forgetful):
    first, second = prompt(3, 50), prompt(4, 40)
    expected = generated(forgetful, first, second, tokens=4, ahead=2)
    forgetful.llm.reset_prefix_cache()
    before = steps(forgetful)
    steering = forgetful.ranks.only.steering
    with steering.on(Override("dense")):  # the first prompt's own step is a pure prefill: it must be cached
        assert generated(forgetful, first, second, tokens=4, ahead=2) == expected
    steered, untouched = (now - then for now, then in zip(steps(forgetful), before, strict=True))
    assert steered == 1, "the first prompt alone"
    assert untouched == 5, "a decode, one beside the second prompt, three more"


def test_several_whole_prompts_in_one_step_are_steered(forgetful):
    several = prompt(5, 30), prompt(6, 41)
    expected = generated(forgetful, *several)
    forgetful.llm.reset_prefix_cache()
    before = steps(forgetful)
    with forgetful.ranks.only.steering.on(BLIND):
        assert generated(forgetful, *several) == expected
    assert steps(forgetful) == (before[0] + 1, before[1])
