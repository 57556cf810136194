"""The experiment `workload` on a CPU: whole runs of each task with real engines."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import feature_models
from tests.command_line import run_here
from tests.engines import children_here
from tests.plugin.engines import VOCABULARY, save_tokenizer

TEXTS = [
    " ".join(f"w{(7 * n + k) % VOCABULARY}" for n in range(length)) for k, length in enumerate((40, 9, 33))
]


def workload(model: Path, folder: Path, *options: object) -> subprocess.CompletedProcess[str]:
    small = [
        "--enforce-eager",
        "--in-process",
        "--block-size",
        32,
        "--repeats",
        6,
        "--gpu-memory-utilization",
        0.2,
    ]
    with children_here():
        return run_here("workload", "--model", model, "--output-dir", folder, *small, *options)


def summary_of(done: subprocess.CompletedProcess[str], folder: Path) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return found


@pytest.fixture(scope="module")
def generated(tiny_gpt2, tmp_path_factory):
    """Twelve prompts through steps of 64 tokens, which cut some."""
    folder = tmp_path_factory.mktemp("workload") / "run"
    options = (
        "--num-prompts",
        12,
        "--lengths",
        "5,40",
        "--max-num-batched-tokens",
        64,
        "--max-model-len",
        64,
    )
    return workload(tiny_gpt2, folder, *options), folder


def test_every_arm_gives_stock_s_answers_and_is_timed(generated):
    done, folder = generated
    summary = summary_of(done, folder)
    arms = {row["arm"]: row for row in summary["arms"]}
    assert [*arms] == ["stock", "whole", "wrapped", "dense", "no_cache"]
    assert {(row["status"], row["n"]) for row in arms.values()} == {("ok", 6)}
    for row in arms.values():
        assert row["requests_per_s"] == pytest.approx(1e6 * 12 / row["median_us"])
        assert 0 < row["p50_us"] <= row["p90_us"] <= row["p99_us"] <= 1.01 * row["median_us"] + 1e5
    of_passes = [row["contrast"] for row in summary["contrasts"] if row["figure"] == "pass"]
    assert of_passes == [
        "whole prompts", "wrappers", "paging", "cache write", "without the cache", "all of it", "A/A",
    ]  # fmt: skip
    assert "Of the time of your 12 requests" in done.stdout


def test_steps_are_recorded_by_kind_and_add_up_to_the_work(generated):
    summary = summary_of(*generated)
    record = json.loads((generated[1] / "run.json").read_text())
    kinds = {
        arm: {row["kind"] for row in summary["kinds"] if row["arm"] == arm} for arm in ("stock", "whole")
    }
    assert "chunk" in kinds["stock"]
    assert kinds["whole"] == {"pure prefill"}
    for arm in kinds:
        steps = [step for step in summary["steps"] if step["arm"] == arm]
        assert sum(step["tokens"] for step in steps) == record["work"]["tokens"]
        assert max(step["tokens"] for step in steps) <= 64
        assert {step["graph"] for step in steps} == {"NONE"}
        assert all(1 <= step["segments"] <= step["blocks"] for step in steps)
    for row in summary["kinds"]:
        if row["attention_pct"] is not None:
            parts = ("attention_pct", "cache_write_pct", "other_pct", "waiting_pct", "between_pct")
            assert sum(row[part] for part in parts) == pytest.approx(100, abs=0.1)
            assert row["cache_write_pct"] > 0


def test_what_was_patched_is_gone_after_each_pass(tiny_gpt2):
    import torch

    from harness.engine.working import Request, Way, working
    from patches.steering import Override
    from tests.plugin.engines import engine_setup

    requests = [Request(tuple(range(1, 20))), Request(tuple(range(30, 41)), arrival_s=0.01)]
    setup = engine_setup(tiny_gpt2, None, max_model_len=64, max_num_batched_tokens=64)
    with torch.inference_mode(), working(setup, "generate", requests, {}) as served:
        worker = served.llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
        layers = worker.vllm_config.compilation_config.static_forward_context.values()
        before = [dict(vars(worker.model_runner)), *(dict(vars(layer.impl)) for layer in layers)]
        done, log = served.record(Way(Override("dense", write_cache=False), whole_prompts=True))
        assert done.steered == len(log.steps) > 0
        assert [layout.tokens for layout in log.layouts] == [19, 11]
        assert worker.vllm_config.scheduler_config.enable_chunked_prefill
        after = [vars(worker.model_runner), *(vars(layer.impl) for layer in layers)]
        assert [one.keys() for one in after] == [one.keys() for one in before]


@pytest.fixture(scope="module")
def causal(tmp_path_factory):
    """A small causal model with a tokenizer, which vLLM converts to pool."""
    path = feature_models.save(*feature_models.BIDIRECTIONAL, tmp_path_factory.mktemp("models") / "causal")
    save_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    """A small encoder-only model that scores pairs, and keeps no KV cache."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        hidden_size=64, num_attention_heads=2, num_hidden_layers=2, intermediate_size=64, num_labels=1,
        max_position_embeddings=128, vocab_size=VOCABULARY, pad_token_id=0,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("models") / "cross-encoder"
    BertForSequenceClassification(config).save_pretrained(path)
    save_tokenizer(path)
    return path


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """A small causal model that sorts texts into three classes."""
    from transformers import Qwen2Config, Qwen2ForSequenceClassification

    config = Qwen2Config(
        hidden_size=128, intermediate_size=64, num_attention_heads=2, num_key_value_heads=2, num_labels=3,
        num_hidden_layers=2, max_position_embeddings=256, vocab_size=VOCABULARY, pad_token_id=0,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("models") / "classifier"
    Qwen2ForSequenceClassification(config).save_pretrained(path)
    save_tokenizer(path)
    return path


@pytest.mark.parametrize(("task", "name"), [("embed", "causal"), ("classify", "classifier")])
def test_a_causal_model_that_pools_does_without_its_cache(task, name, tmp_path, request):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in TEXTS))
    options = ("--task", task, "--prompts", prompts, "--max-num-batched-tokens", 256, "--arms", "no_cache")
    model = request.getfixturevalue(name)
    summary = summary_of(workload(model, tmp_path / "run", *options), tmp_path / "run")
    arms = {row["arm"]: row for row in summary["arms"]}
    assert {name: row["status"] for name, row in arms.items()} == dict.fromkeys(
        ("stock", "wrapped", "no_cache"), "ok"
    )


def test_an_encoder_that_scores_pairs_has_no_cache_to_do_without(cross_encoder, tmp_path):
    prompts = tmp_path / "pairs.jsonl"
    prompts.write_text("".join(json.dumps({"text_1": "w3 w5", "text_2": text}) + "\n" for text in TEXTS))
    done = workload(cross_encoder, tmp_path / "run", "--task", "score", "--prompts", prompts)
    summary = summary_of(done, tmp_path / "run")
    arms = {row["arm"]: row for row in summary["arms"]}
    assert arms["stock"]["status"] == "ok"
    assert arms["no_cache"]["status"] == "unsupported"
    assert "encoder-only attention: no KV cache" in arms["no_cache"]["reason"]
    assert {step["blocks"] for step in summary["steps"]} == {0}
    assert summary["layout"] == []


def test_pairs_that_a_causal_model_scores_are_two_requests_each(causal, tmp_path):
    prompts = tmp_path / "pairs.jsonl"
    prompts.write_text(json.dumps({"query": "w3 w5", "documents": TEXTS}) + "\n")
    done = workload(causal, tmp_path / "run", "--task", "score", "--prompts", prompts, "--arms", "wrapped")
    summary_of(done, tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["work"]["requests"] == 2 * len(TEXTS)
    assert any("each is a request" in notice for notice in record["notices"])
