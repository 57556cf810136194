"""The experiment `memory` with real engines on a small model: stages, what is read there, and a whole run."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from harness import device, models
from harness.config import load
from harness.experiments.memory import jobs, measure
from harness.experiments.memory.jobs import ENGINES, Reading, Stage, TransformersJob, plan, readings
from harness.experiments.memory.measure import Job, is_precise
from harness.experiments.memory.options import MemoryConfig, find_model, resolve
from harness.measure.process_memory import Meter
from harness.models import ModelError
from harness.running.recorder import Recorder
from harness.runs.record import Cell, Result, Status
from harness.runs.store import RunDirectory
from tests.command_line import run_here
from tests.engines import ChildHere

LENGTHS, BLOCK_SIZE = [1, 100, 33], 32
PER_TOKEN = 2 * 3 * 2 * 64 * 2  # two tensors, layers, heads, values, bytes: of the small model in bfloat16


def configured(tiny_gpt2: Path, **options: object) -> MemoryConfig:
    small = {
        "model": str(tiny_gpt2), "lengths": LENGTHS, "block_size": BLOCK_SIZE, "enforce_eager": True,
        "gpu_memory_utilization": 0.2,
    }  # fmt: skip
    return resolve(load(MemoryConfig, small | options), device.kind())


@pytest.fixture(scope="module")
def done(tiny_gpt2, tmp_path_factory):
    """A run from the command line: what it printed, and its directory."""
    folder = tmp_path_factory.mktemp("memory")
    small = "--lengths 1,100,33 --block-size 32 --enforce-eager --repeats 1 --gpu-memory-utilization 0.2"
    ran = run_here("memory", "--model", tiny_gpt2, *small.split(), "--output-dir", folder)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, folder


@pytest.fixture(scope="module")
def read(done):
    """The figures of both engines' processes, by stage."""
    found: dict[str, dict[str, dict[str, float]]] = {engine: {} for engine in ENGINES}
    for result in RunDirectory.open(done[1]).results():
        assert (result.status, result.reason) == (Status.OK, None)
        figures = {name: values[0] for name, values in result.readings.items()}
        found[result.cell.arm][str(result.cell.at("moment"))] = figures
    return found


def test_every_stage_is_read_in_its_order(read):
    for engine in ENGINES:
        assert list(read[engine]) == [stage.name for stage in plan(engine, LENGTHS)]
        for figures in read[engine].values():
            assert 0 < figures["rss_bytes"] <= figures["peak_rss_bytes"]


def test_transformers_holds_exactly_one_request_s_tokens_and_a_batch_is_padded(read):
    used = {name: figures["cache_used_bytes"] for name, figures in read["transformers"].items()}
    assert [used[f"input {n}"] for n in (1, 2, 3)] == [length * PER_TOKEN for length in LENGTHS]
    assert used["all, padded"] == 3 * 100 * PER_TOKEN
    assert used["model loaded"] == used["done"] == 0


def test_vllm_holds_whole_blocks_and_gives_them_back(read):
    figures, blocks = read["vLLM"], 1 + 4 + 2
    assert figures["all inputs"]["cache_used_bytes"] == blocks * BLOCK_SIZE * PER_TOKEN
    assert figures["done"]["cache_used_bytes"] == figures["model loaded"]["cache_used_bytes"] == 0
    assert figures["model loaded"]["cache_held_bytes"] >= blocks * BLOCK_SIZE * PER_TOKEN


def test_what_a_window_has_passed_is_kept_as_the_formula_and_vllm_have_it(tiny_windowed):
    config = configured(tiny_windowed)
    source = models.materialise(find_model(config), config.seed)
    job, used = TransformersJob(config, source, list(range(1, 101))), []
    with torch.inference_mode():
        job.load(lambda *_: None)
        for stage in (Stage("input 2", (100,)), Stage("all, padded", (1, 100, 33))):
            job.run(stage, lambda held, *_: used.append(held))
    per_token = 2 * 2 * 1 * 64 * 2
    assert used == [100 * per_token, 3 * 100 * per_token]


def test_the_block_size_is_the_engine_s(done):
    cells = [result.cell for result in RunDirectory.open(done[1]).results()]
    sizes = {(cell.arm, cell.at("moment")): cell.block_size for cell in cells}
    assert sizes["vLLM", "start"] == sizes["transformers", "all, padded"] == 0
    assert sizes["vLLM", "all inputs"] == BLOCK_SIZE
    assert "vLLM's blocks have 32 tokens" in done[0]


def test_padding_changes_no_first_token_and_both_engines_predict_alike(done):
    tokens = RunDirectory.open(done[1]).record().tokens_by_stage
    alone = [token for n in (1, 2, 3) for token in tokens["transformers"][f"input {n}"]]
    assert len(tokens["vLLM"]["all inputs"]) == 3
    assert tokens["transformers"]["all, padded"] == alone == tokens["vLLM"]["all inputs"]


def test_neither_engine_is_in_the_process_that_it_is_to_be_loaded_into(read):
    start = {engine: read[engine]["start"]["rss_bytes"] for engine in ENGINES}
    assert start["transformers"] == pytest.approx(start["vLLM"], rel=0.2)
    assert start["vLLM"] < read["vLLM"]["model loaded"]["rss_bytes"] / 1.5


def test_tables_and_waste_of_the_run(done):
    printed, folder = done
    assert "Memory through the stages of a job" in printed
    assert "KV cache of all 3 inputs at once (1 to 100 tokens)" in printed
    assert RunDirectory.open(folder).record().kv_bytes_per_token == PER_TOKEN
    summary = json.loads((folder / "summary.json").read_text())
    waste = {row["way"]: row["used_bytes"] for row in summary["waste"]}
    assert waste == {"needed": 134 * PER_TOKEN, "blocks": 7 * 32 * PER_TOKEN, "padded": 300 * PER_TOKEN}


def test_ctrl_c_keeps_what_was_read_and_the_process_is_started_again(tiny_gpt2, monkeypatch, tmp_path):
    config = configured(tiny_gpt2, output_dir=tmp_path, quiet=True)
    stages = plan("vLLM", LENGTHS)

    def two_of_them(*arguments):
        yield from (Reading(stage, Status.OK, figures={"rss_bytes": 7}) for stage in stages[:2])
        raise KeyboardInterrupt

    monkeypatch.setattr(measure, "readings", two_of_them)
    recorder = Recorder(config, "tiny")
    with pytest.raises(KeyboardInterrupt):
        Job(config, recorder, find_model(config), []).process("vLLM", 0)
    kept = recorder.directory.results()
    assert [result.status for result in kept] == [Status.OK] * 2 + [Status.INTERRUPTED] * 3
    assert kept[0].readings == {"rss_bytes": [7]}
    recorder.release()
    assert Recorder(config.model_copy(update={"resume": True}), "tiny").finished == set()


def test_resident_memory_counts_what_is_written():
    meter = Meter("cpu")
    before = meter.read()["rss_bytes"]
    filled = torch.ones(64 * 2**20, dtype=torch.uint8)
    after = meter.read()
    assert after["rss_bytes"] - before == pytest.approx(filled.nbytes, rel=0.3)
    assert "allocated_bytes" not in after
    del filled
    meter.read()
    assert meter.read()["peak_rss_bytes"] < after["rss_bytes"]


def test_a_process_that_is_killed_leaves_a_reason_for_all_that_it_did_not_reach(tiny_gpt2):
    config = configured(tiny_gpt2)
    source = models.materialise(find_model(config), seed=0)
    found = []
    for reading in readings("transformers", config, source, [5] * 100):
        found.append(reading)
        if len(found) == 1:
            (job,) = multiprocessing.active_children()
            os.kill(job.pid, signal.SIGKILL)
    assert [reading.stage for reading in found] == plan("transformers", LENGTHS)
    assert found[0].status is Status.OK
    assert {reading.status for reading in found[1:]} == {Status.ERROR}
    assert found[1].reason.startswith("the process ended with SIGKILL")
    assert {reading.reason for reading in found[2:]} == {f"not reached: model loaded: {found[1].reason}"}


def test_a_model_that_does_not_load_is_said_at_every_stage_that_follows(tiny_gpt2, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "Child", ChildHere)
    config = configured(tiny_gpt2)
    (tmp_path / "config.json").write_text("{}")
    source = replace(find_model(config), path=tmp_path)
    found = list(readings("transformers", config, source, [5] * 100))
    assert [reading.status for reading in found] == [Status.OK] + [Status.ERROR] * (len(found) - 1)
    assert [reading.stage for reading in found] == plan("transformers", LENGTHS)
    assert found[2].reason == f"not reached: model loaded: {found[1].reason}"


def test_enough_is_when_every_figure_is_precise():
    cell = Cell("memory", "prefill", "p", "vLLM", 0, 16, None, "captured")

    def results(values):
        return [Result(cell, str(n), Status.OK, readings={"rss_bytes": [v]}) for n, v in enumerate(values)]

    assert not is_precise(results([1000.0] * 5), 0.5)
    assert is_precise(results([1000.0, 1001, 1002, 1003, 1004, 1004]), 0.5)
    assert not is_precise(results([1000.0, 1001, 1002, 1003, 1004, 1010]), 0.5)
    assert is_precise(results([0.0] * 6), 0.5)


def test_inputs_beyond_the_model_s_positions_are_refused(tiny_gpt2):
    with pytest.raises(ModelError, match=r"--lengths 127: .* has 128 learned positions.*take 1 token fewer"):
        find_model(configured(tiny_gpt2, lengths=[5, 127]))
    assert find_model(configured(tiny_gpt2, lengths=[5, 126])).num_layers == 3


def test_by_default_no_last_block_is_full_and_gpt2_takes_the_inputs():
    config = MemoryConfig()
    assert find_model(resolve(config, "cpu")).num_layers == 12
    assert all(length % 16 for length in config.lengths)
