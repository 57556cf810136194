"""The experiment `kvcache` on a CPU: whole runs, and one that is ended."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from harness.engine.inengine import Outcome
from harness.experiments.kvcache.measure import GenerationTimer, judge_logits
from harness.measure.sampler import MAX_WARMUP_ROUNDS
from tests.command_line import run_here
from tests.engines import children_here


def kvcache(model: Path, folder: Path, options: str) -> subprocess.CompletedProcess[str]:
    """A run from one token."""
    small = ["--enforce-eager", "--input-len", 1, "--block-size", 32, *options.split()]
    with children_here():
        return run_here("kvcache", "--model", model, "--output-dir", folder, *small)


@pytest.fixture(scope="module")
def finished(tiny_gpt2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kvcache") / "run"
    done = kvcache(tiny_gpt2, folder, "--output-len 5 --repeats 6")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout


def test_a_run_from_one_token(finished):
    folder, screen = finished
    summary = json.loads((folder / "summary.json").read_text())
    assert {row["arm"]: (row["status"], row["n"]) for row in summary["modes"]} == dict.fromkeys(
        ("no_cache", "kv_cache", "paged"), ("ok", 6)
    )
    assert len(summary["steps"]) == 3 * 5
    for row in summary["steps"]:
        assert row["n"] == 6
        assert row["tokens"] == row["step"]
    for row in summary["modes"]:
        parts = [step["median_us"] for step in summary["steps"] if step["arm"] == row["arm"]]
        assert row["first_token_us"] == parts[0]
        assert row["peak_bytes"] >= row["start_bytes"] > 0
    assert [row["contrast"] for row in summary["speed_ups"]][-1] == "A/A"
    assert "5 tokens generated from 1" in screen
    record = json.loads((folder / "run.json").read_text())
    assert record["first_logits"].keys() == {"kv_cache", "paged"}
    assert {row["objection"] for row in record["first_logits"].values()} == {None}
    assert "KV cache of 5 tokens" in screen
    assert len(list((folder / "plots").iterdir())) == 6


def test_steps_add_up_to_their_generation(finished):
    lines = [json.loads(line) for line in (finished[0] / "samples.jsonl").read_text().splitlines()]
    for mode in ("no_cache", "kv_cache", "paged"):
        whole = next(
            x for x in lines if x["series"] == "generation" and x["cell"]["arm"] == mode and not x["control"]
        )
        steps = [
            x["samples_us"]
            for x in lines
            if x["series"] == "steps" and x["cell"]["stage"] == "step" and x["cell"]["arm"] == mode
        ]
        assert [sum(times) for times in zip(*steps, strict=True)] == pytest.approx(whole["samples_us"])


@pytest.fixture
def _sigterm_as_in_a_shell():
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("_sigterm_as_in_a_shell")
def test_a_run_that_a_batch_system_ends_keeps_the_steps_and_the_memory_of_its_generations(
    tiny_gpt2, tmp_path, monkeypatch
):
    usual, sampled = GenerationTimer.time_round, itertools.count()

    def time_round(self, steps):
        if next(sampled) == MAX_WARMUP_ROUNDS + 2:
            signal.raise_signal(signal.SIGTERM)
        return usual(self, steps)

    monkeypatch.setattr(GenerationTimer, "time_round", time_round)
    done = kvcache(tiny_gpt2, tmp_path / "run", "--output-len 3 --repeats 1000")
    assert done.returncode == 130
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {row["arm"]: row["status"] for row in summary["modes"]} == dict.fromkeys(
        ("no_cache", "kv_cache", "paged"), "interrupted"
    )
    assert len(summary["steps"]) == 3 * 3
    (counted,) = {row["n"] for row in summary["modes"] + summary["steps"]}
    assert counted >= 1
    for row in summary["modes"]:
        assert row["first_token_us"] > 0
        assert row["token_us"] > 0
        assert row["peak_bytes"] >= row["start_bytes"] > 0
    assert "KV cache of 3 tokens" in done.stdout
    assert "Along the generation" in done.stdout


def outcomes(**errors: float) -> dict[str, Outcome]:
    """Logits that are off those without a cache by so many of their standard deviations."""
    generator = torch.Generator().manual_seed(1)
    logits, noise = torch.randn(2, 1, 1000, generator=generator)
    logits[0, 7] = 9.0
    noise /= noise.square().mean().sqrt() / logits.std()
    found = {mode: Outcome(logits + error * noise, (7,)) for mode, error in errors.items()}
    return {"no_cache": Outcome(logits, (7,)), **found}


@pytest.mark.parametrize(
    ("kv_cache", "paged", "allowed", "is_wrong"),
    [
        (0.03, 0.051, 0.06, False),  # as a real model in bfloat16
        (0.01, 0.051, 0.05, True),
        (0.03, 0.07, 0.06, True),
        (0.09, 0.1, 0.18, False),
        (0.5, 0.1, 0.05, True),  # no noise: the cache itself is wrong
    ],
)
def test_the_noise_of_the_model_says_how_far_another_engine_s_logits_may_be(
    kv_cache, paged, allowed, is_wrong
):
    found = judge_logits(outcomes(kv_cache=kv_cache, paged=paged))
    assert found["paged"].allowed == pytest.approx(allowed, rel=1e-3)
    assert bool(found["paged"].objection) is is_wrong
    assert bool(found["kv_cache"].objection) is (kv_cache > 0.1)


def test_without_a_cache_to_compare_with_the_tolerance_is_that_of_one_engine():
    (found,) = judge_logits(outcomes(paged=0.06)).values()
    assert found.allowed == 0.05
    assert "the logits differ by 0.06 of their spread, 0.05 allowed" in found.objection


def test_a_first_token_with_a_clear_lead_must_be_the_same_whatever_the_noise():
    found = outcomes(kv_cache=0.09, paged=0.01)
    found["paged"] = Outcome(found["paged"].logits, (3,))
    assert "first token 3, not 7, which leads by" in judge_logits(found)["paged"].objection
