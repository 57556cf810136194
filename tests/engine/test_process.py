"""A real engine in a child process: it computes what one in this process does, and fails alone."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from harness import batch
from harness.engine.child import Child, EngineFailed
from harness.engine.inengine import prefilling
from harness.runs.record import Status, status_of
from tests.conftest import BLOCK_SIZE, LENGTH
from tests.engines import inputs


@pytest.fixture(scope="module")
def child(tiny_gpt2):
    spec, source = inputs(tiny_gpt2, length=LENGTH, block_size=2 * BLOCK_SIZE, gpu_memory_utilization=0.1)
    spec = replace(spec, kv_cache_bytes=2**28)
    with Child(prefilling, spec, source, batch.parse(str(LENGTH)), 0) as process:
        yield process


def test_a_child_says_what_it_is(child):
    facts = child.facts
    assert facts.block_size == 2 * BLOCK_SIZE
    assert {"engine", "paged", "dense", "no_cache"} <= facts.arms.keys()
    assert facts.arms["paged"].spread_k == 1
    assert facts.not_steered is None


def test_every_arm_computes_what_an_engine_in_this_process_does(child, engine, prompts):
    with torch.inference_mode(), engine.ranks.during("observing_logits") as seen:
        expected = engine.prefill(prompts)
    reference = seen[0][-1].float().numpy()
    for arm in ("engine", "paged", "dense", "no_cache"):
        found, first_tokens = child.ask("outcome", prompts, arm)
        assert found.dtype == np.float32
        assert first_tokens == expected.first_tokens
        assert np.abs(found - reference).max() <= 0.05 * reference.std()


def test_the_step_s_own_seconds_come_back(child, prompts):
    done = child.ask("prefill", prompts, "dense")
    assert done.seconds > 0
    assert done.first_tokens == child.ask("prefill", prompts, "engine").first_tokens


def test_what_goes_wrong_in_the_child_is_an_answer_and_the_child_goes_on(child, prompts):
    with pytest.raises(EngineFailed, match="KeyError: 'no such arm'") as error:
        child.ask("prefill", prompts, "no such arm")
    assert status_of(error.value) == (Status.ERROR, "KeyError: 'no such arm'")
    assert child.ask("prefill", prompts, "paged").seconds > 0


def test_a_child_that_is_killed_says_so_and_nothing_hangs(child, prompts):
    """Last: the module's child is gone after it."""
    os.kill(child.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(EngineFailed, match="ended with SIGKILL"):
            child.ask("prefill", prompts, "paged")
    child.close()
    child.close()
