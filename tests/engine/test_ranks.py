"""Two ranks on a CPU: vLLM's mp executor, through the command line and against one rank."""

from __future__ import annotations

import json
import logging
import os
from typing import Any

import psutil
import pytest
import torch

from harness import device, layout, models, prompt
from harness.calls import capture
from harness.engine import prefills
from harness.engine.executors import TALKATIVE, DeathWatch, cpu_binding
from harness.engine.ranks import RankDied
from harness.experiments.prefill import measure
from harness.measure.budget import Budget
from harness.replay.series import Judge
from tests.command_line import run_here
from tests.conftest import BLOCK_SIZE, LENGTH

LAYERS = [0, 2]

pytestmark = [
    pytest.mark.skipif(device.kind() == "cuda", reason="tests/gpu has it for two GPUs"),
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="two ranks need two cores"),
]


@pytest.fixture(scope="module")
def finished(tiny_gpt2, tmp_path_factory):
    """A run of two ranks, past the positions that the model was trained with.

    Once all is measured the second rank is killed, and what the next step says is kept in its place.
    """
    output = tmp_path_factory.mktemp("runs") / "run"
    said = []
    sweep = measure.Job._sweep

    def sweep_and_kill(job: measure.Job, engine: Any, prompts: Any) -> None:
        sweep(job, engine, prompts)
        (second,) = (p for p in psutil.Process().children() if "Worker_TP1" in " ".join(p.cmdline()))
        second.kill()
        with pytest.raises(RankDied) as error:
            engine.prefill(prompts)
        said.append(str(error.value))

    fixed = ["--length", LENGTH, "--block-size", BLOCK_SIZE, "--enforce-eager", "--tensor-parallel-size", 2]
    options = ["--spread-k", "1,3", "--layers", "0,2", "--repeats", 6, "--save-captures"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure.Job, "_sweep", sweep_and_kill)
        done = run_here("--model", tiny_gpt2, "--output-dir", output, *fixed, *options, function="main_job")
    assert done.returncode == 0, done.stderr[-3000:]
    return output, done, said


@pytest.fixture(scope="module")
def results(finished):
    return [json.loads(line) for line in (finished[0] / "samples.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def calls(finished):
    """The saved attention calls by rank and layer."""
    folder = finished[0] / "captures"
    return {
        (rank, layer): capture.load(folder / f"rank-{rank}" / f"layer-{layer:03d}.safetensors", "cpu")
        for rank in (0, 1)
        for layer in LAYERS
    }


def test_every_rank_replays_every_arm(results):
    cells: dict[int | None, set[str]] = {}
    for result in results:
        rank, of = result["cell"]["rank"], result["cell"] | {"rank": None}
        cells.setdefault(rank, set()).add(json.dumps([of, result["one_segment_for"], result["control"]]))
        assert result["status"] == "ok", result["reason"]
        assert len(result["samples_us"]) == 6
        assert result["series"].endswith(f" rank={rank}") is (rank is not None)
    assert cells.keys() == {None, 0, 1}
    assert cells[0] == cells[1]
    seeds = {(r["series"].partition(" rank")[0], r["seed"]) for r in results}
    assert len(seeds) == len({name for name, _ in seeds}), "ranks sample in the same order"


def test_the_arms_inside_the_engine_are_those_of_one_rank(finished, results):
    arms = {r["cell"]["arm"] for r in results if r["cell"]["stage"] == "end_to_end"}
    assert arms >= {"engine", "paged", "dense", "no_write", "compact"}
    record = json.loads((finished[0] / "run.json").read_text())
    assert record["logits_error"].keys() == arms
    assert {profile["arm"] for profile in record["profile"]} >= {"engine", "paged", "dense"}
    assert (finished[0] / "trace.json").exists()


def test_a_rank_that_dies_is_said_in_one_line(finished):
    (said,) = finished[2]
    assert "rank 1 died" in said
    assert "what was measured before is kept" in said
    assert "\n" not in said


def test_each_rank_has_its_share_of_the_heads_of_one_rank(calls, engine, tiny_gpt2):
    """The first layer's, which no other rank's arithmetic has passed through."""
    source = models.materialise(models.inspect(str(tiny_gpt2), length=LENGTH), seed=0)
    prompts, _ = prompt.token_ids(source, [LENGTH], None, 0)
    one_segment = [layout.plan(layout.num_blocks(LENGTH, BLOCK_SIZE), 1, engine.free_block_ids())]
    with torch.inference_mode():
        prefills.capture(engine, prompts, one_segment, [0])
    whole = engine.ranks.only.captured.calls[0]
    for rank in (0, 1):
        own = calls[rank, 0]
        assert (own.num_heads, own.num_kv_heads) == (1, 1)
        for name in ("query", "key", "value", "output"):
            theirs = getattr(whole, name)[:, rank : rank + 1]
            torch.testing.assert_close(getattr(own, name), theirs, rtol=0.02, atol=0.02)
    assert not torch.equal(calls[0, 0].query, calls[1, 0].query)


def test_outputs_are_right_in_every_rank(calls):
    for call in calls.values():
        judge = Judge(call)
        assert judge.error_of(call.output) < judge.tolerance
    for layer in LAYERS:
        wrong = Judge(calls[0, layer])
        assert not wrong.error_of(calls[1, layer].output) < wrong.tolerance


def test_the_report_shows_the_slowest_rank_and_all_side_by_side(finished):
    output, done, _ = finished
    summary = json.loads((output / "summary.json").read_text())
    assert {row["rank"] for row in summary["kernels"]} == {0, 1}
    slowest = summary["slowest_rank"]
    assert f"the slowest rank: {slowest}" in done.stdout
    table = done.stdout.partition("\nRanks\n")[2]
    assert f"{slowest}, slowest " in table
    assert any(line.startswith(f"{1 - slowest} ") for line in table.splitlines())
    record = json.loads((output / "run.json").read_text())
    assert record["model"]["num_heads"] == 1


@pytest.mark.parametrize(
    ("ranks", "cpus", "binding"),
    [(2, [0, 1], "0|1"), (2, [3, 5, 8, 9, 11], "3,5|8,9"), (4, [0, 1], "nobind")],
)
def test_cpus_are_shared_out(ranks, cpus, binding):
    assert cpu_binding(ranks, cpus) == binding


@pytest.mark.parametrize(
    ("said", "last_words"),
    [
        ("Worker proc VllmWorker-1 died unexpectedly (exit code: -9), ...", "rank 1 died with SIGKILL"),
        ("RayWorkerProc rank=[3] died unexpectedly, shutting down executor.", "rank 3 died"),
        ("Dumping input data", "a rank died"),
    ],
)
def test_who_died_is_what_the_executor_says_first(said, last_words):
    deaths = DeathWatch()
    for text in (said, "Worker proc VllmWorker-0 died unexpectedly (exit code: -15), ..."):
        if "died" in said or "died" not in text:
            deaths.filter(logging.LogRecord("vllm", logging.ERROR, "", 0, text, None, None))
    assert deaths.describe(timeout_s=0) == last_words


def test_engines_side_by_side_hear_of_a_death_and_print_nothing(caplog):
    logger = logging.getLogger(TALKATIVE[1])
    before, watches = list(logger.filters), [DeathWatch() for _ in range(3)]
    with watches[0].listening():
        for rank in (1, 2):
            with watches[rank].listening():
                logger.error("Worker proc VllmWorker-%s died unexpectedly", rank)
    assert logger.filters == before
    assert [each.describe(timeout_s=0) for each in watches] == ["rank 1 died", "rank 1 died", "rank 2 died"]
    assert "died" not in caplog.text


def test_a_budget_pays_for_the_slowest_rank():
    budget = Budget(10.0, 4)
    quick, slow = Budget(10.0, 4), Budget(10.0, 4)
    quick.spend(1.0, 1, 40, "precision")
    slow.spend(2.5, 1, 7, "time")
    budget.settle([quick, slow])
    assert (budget.seconds, budget.spent_s, budget.series_left) == (7.5, 2.5, 3)
    assert (budget.least_rounds, budget.shortened) == (7, True)
