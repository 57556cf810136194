"""What a child with a real engine answers: it computes what another engine does, and says what went wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from harness import batch
from harness.engine.child import EngineFailed
from harness.engine.engine import Engine
from harness.engine.inengine import prefilling
from harness.runs.record import Status, status_of
from tests.conftest import BLOCK_SIZE, LENGTH
from tests.engines import ChildHere, inputs


@pytest.fixture(scope="module")
def expected(tiny_gpt2, prompts):
    """Logits and first tokens of another engine, with smaller blocks; it is gone before the next is up."""
    asked = inputs(tiny_gpt2, length=LENGTH, block_size=BLOCK_SIZE)
    with torch.inference_mode(), Engine(*asked) as engine, engine.ranks.during("observing_logits") as seen:
        first_tokens = engine.prefill(prompts).first_tokens
    return seen[0][-1].float().numpy(), first_tokens


@pytest.fixture(scope="module")
def child(tiny_gpt2, expected):
    spec, source = inputs(tiny_gpt2, length=LENGTH, block_size=2 * BLOCK_SIZE, gpu_memory_utilization=0.1)
    spec = replace(spec, kv_cache_bytes=2**28)
    with ChildHere(prefilling, spec, source, batch.parse(str(LENGTH)), 0) as child:
        yield child


def test_a_child_says_what_it_is(child):
    facts = child.facts
    assert facts.block_size == 2 * BLOCK_SIZE
    assert {"engine", "paged", "dense", "no_write"} <= facts.arms.keys()
    assert facts.arms["paged"].spread_k == 1
    assert facts.not_steered is None


def test_every_arm_computes_what_another_engine_does(child, expected, prompts):
    logits, tokens = expected
    for arm in ("engine", "paged", "dense", "no_write"):
        found, first_tokens = child.ask("outcome", prompts, arm)
        assert found.dtype == np.float32
        assert first_tokens == tokens
        assert np.abs(found - logits).max() <= 0.05 * logits.std()


def test_the_step_s_own_seconds_come_back(child, prompts):
    done = child.ask("prefill", prompts, "dense")
    assert done.seconds > 0
    assert done.first_tokens == child.ask("prefill", prompts, "engine").first_tokens


def test_what_goes_wrong_in_the_child_is_an_answer_and_the_child_goes_on(child, prompts):
    with pytest.raises(EngineFailed, match="KeyError: 'no such arm'") as error:
        child.ask("prefill", prompts, "no such arm")
    assert status_of(error.value) == (Status.ERROR, "KeyError: 'no such arm'")
    assert child.ask("prefill", prompts, "paged").seconds > 0
