"""The experiment `cache` with a real engine on a small model: what vLLM finds, and a whole run."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import models
from harness.config import load
from harness.engine.engine import Engine
from harness.engine.generation import complete
from harness.engine.options import EngineError
from harness.experiments.cache import measure
from harness.experiments.cache.measure import Arm, Job, Texts
from harness.experiments.cache.options import CacheConfig, resolve
from harness.prompt import PromptError
from harness.running.recorder import Recorder
from harness.runs.record import Status
from tests.command_line import run_here

pytestmark = pytest.mark.usefixtures("inference_mode")
LENGTH, BLOCK_SIZE, BATCH = 100, 32, 3
IDS = np.random.default_rng(0).integers(1, 512, 4096)


@pytest.fixture(scope="module")
def config(tiny_gpt2):
    options = {
        "model": str(tiny_gpt2), "length": LENGTH, "prompts": BATCH, "block_size": BLOCK_SIZE,
        "output_len": 4, "enforce_eager": True, "gpu_memory_utilization": 0.2, "quiet": True,
    }  # fmt: skip
    return resolve(load(CacheConfig, options), "cpu")


@pytest.fixture(scope="module")
def source(tiny_gpt2):
    return models.materialise(models.inspect(str(tiny_gpt2), length=LENGTH + 3), seed=0)


@pytest.fixture(scope="module")
def cached_engine(config, source):
    with Engine(config.engine(), source) as engine:
        yield engine


def texts(length: int = LENGTH) -> Texts:
    return Texts(IDS, length, BLOCK_SIZE, seed=0)


@settings(max_examples=60)
@given(length=st.integers(1, 300), share=st.integers(0, 100), index=st.integers(0, 10**6))
def test_prompts_share_exactly_so_much_and_are_others_in_another_round(length, share, index):
    ours, other = texts(length).pair(share, index)
    assert len(ours) == len(other) == length
    shared = length * share // 100
    assert ours[:shared] == other[:shared]
    assert shared == length or ours[shared] != other[shared]
    assert (ours, other) == texts(length).pair(share, index)
    assert length < 20 or ours != texts(length).pair(share, index + 1)[0]


def test_no_prompt_of_a_batch_begins_as_another_or_as_what_is_cached_for_it():
    few = Texts(IDS[:40], LENGTH, BLOCK_SIZE, seed=0)
    for number in range(50):
        found = few.batch(50, number, 8)
        assert len({tuple(ours[:BLOCK_SIZE]) for ours, _, _ in found}) == 8
        assert all(ours[:50] == other[:50] for ours, other, _ in found)
        assert all(ours[0] != unlike[0] for ours, _, unlike in found)
    with pytest.raises(PromptError, match="--prompts 41: the text has too few different beginnings"):
        few.batch(50, 0, 41)


def test_a_run_from_the_command_line(tiny_gpt2, tmp_path):
    """Ahead of the tests that share an engine: its own is in this process too."""
    small = "--length 100 --prompts 2 --shares 0,100 --repeats 6 --block-size 32 --enforce-eager"
    options = [*small.split(), "--gpu-memory-utilization", 0.2, "--output-dir", tmp_path]
    ran = run_here("cache", "--model", tiny_gpt2, *options)
    assert ran.returncode == 0, ran.stderr
    assert "Prefix cache: warm against reset" in ran.stdout
    assert "Outputs side by side" in ran.stdout
    assert "the reset itself: " in ran.stdout
    summary = json.loads((tmp_path / "summary.json").read_text())
    cells = {(row["batch_size"], row["share_pct"], row["arm"]): row for row in summary["cells"]}
    assert {row["status"] for row in cells.values()} == {"ok"}
    assert {row["n"] for row in cells.values()} == {6}
    assert cells[2, 100, "warm"]["hit_rate_pct"] == cells[1, 100, "warm"]["expected_rate_pct"] == 96
    assert cells[1, 100, "warm"]["cached_tokens"] == 96
    assert len(summary["contrasts"]) == 2 * 4
    record = json.loads((tmp_path / "run.json").read_text())
    assert record["engine"]["prefix_caching"] is True
    assert {len(row["warm"]) for rows in record["outputs"].values() for row in rows} == {8}


@pytest.mark.parametrize("batch_size", [1, BATCH])
@pytest.mark.parametrize(
    ("length", "share", "found"),
    [(100, 0, 0), (100, 25, 0), (100, 50, 32), (100, 75, 64), (100, 100, 96), (96, 100, 64), (1, 100, 0)],
)
def test_vllm_finds_whole_blocks_and_computes_the_last_token(cached_engine, length, share, found, batch_size):
    reset, warm = (Arm(name, cached_engine, texts(length), share, batch_size) for name in ("reset", "warm"))
    for _ in range(2):
        without, with_cache = reset.run(), warm.run()
        assert without.cached_tokens == [0] * batch_size
        assert with_cache.cached_tokens == [found] * batch_size
        assert with_cache.tokens == without.tokens
        warm.read(reset)
    assert warm.readings["hit_rate_pct"] == warm.readings["expected_rate_pct"] == [100 * found / length] * 2
    assert warm.readings["changed_first_tokens"] == [0, 0]


def test_several_tokens_are_those_of_longer_prompts(cached_engine):
    prompts = [texts().pair(0, n)[0] for n in range(2)]
    done = complete(cached_engine, prompts, 3)
    for prompt, tokens in zip(prompts, done.tokens, strict=True):
        longer = complete(cached_engine, [[*prompt, *tokens[:2]]])
        assert longer.tokens == [tokens[2:]]


def test_prompts_that_one_step_does_not_take_are_refused_and_leave_nothing_behind(cached_engine):
    prompts = [texts().pair(0, n)[0] for n in range(30)]
    with pytest.raises(EngineError, match=r"30 prompts of 3000 tokens in all took more than one step"):
        complete(cached_engine, prompts)
    assert cached_engine.reset_prefix_cache() > 0


def test_requests_that_something_interrupts_hold_no_blocks(cached_engine):
    def interrupt() -> None:
        raise KeyboardInterrupt

    free = cached_engine.free_block_ids()
    with pytest.raises(KeyboardInterrupt):
        complete(cached_engine, [texts().pair(0, 0)[0]] * 2, 3, on_step=interrupt)
    assert cached_engine.free_block_ids() == free
    assert complete(cached_engine, [[5]]).tokens


def test_a_reset_that_vllm_refuses_is_said(cached_engine):
    refused = []

    def reset() -> None:
        try:
            cached_engine.reset_prefix_cache()
        except EngineError as error:
            refused.append(str(error))

    complete(cached_engine, [texts().pair(0, 0)[0]], 2, on_step=reset)
    assert refused == ["vLLM did not reset its prefix cache: a request still holds blocks"]


def test_a_cache_that_holds_something_else_is_found_and_not_timed(
    cached_engine, config, source, monkeypatch, tmp_path
):
    def spoiling(engine, prompts, output_len=1):
        done = complete(engine, prompts, output_len)
        for layer in engine.ranks.only.layers.values():
            layer.kv_cache.zero_()
        return done

    monkeypatch.setattr(measure, "complete", spoiling)
    half = config.model_copy(update={"shares": [50], "repeats": 6, "output_dir": tmp_path})
    recorder = Recorder(half, "tiny")
    Job(half, recorder, source, cached_engine, texts()).run()
    statuses = {(r.cell.arm, r.cell.at("batch_size")): r.status for r in recorder.results if not r.control}
    assert statuses["reset", 1] is Status.OK
    assert statuses["warm", 1] is statuses["warm", BATCH] is Status.WRONG_OUTPUT
    assert "the logits differ by" in recorder.record.notices[0]
