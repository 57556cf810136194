"""Resuming: what may not have changed, which series are finished, which runs can go on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness import device
from harness.calls import headers
from harness.calls.headers import CaptureShapes
from harness.config import ConfigError
from harness.experiments.prefill import inputs
from harness.experiments.prefill.options import RunConfig, resolve
from harness.runs import resume
from harness.runs.record import Cell, Result, Status
from harness.runs.store import RunDirectory
from tests.made_up.builder import run_record


def started(config: RunConfig, **facts: Any) -> dict[str, Any]:
    """The record of a run that began with `config` here and now."""
    record = {
        "status": "interrupted",
        "config": config.model_dump(mode="json"),
        "device": device.describe(),
        "versions": device.versions(),
    }
    return record | facts


def result(series: str, arm: str, size: int = 2, **fields: Any) -> Result:
    cell = Cell("kernel", "flash_attn_func", "flash-attn 2.8.3", arm, 4, 16, 0, "captured")
    return replace(Result(cell, series, Status.OK, samples_us=[1.0], series_size=size), **fields)


def test_how_long_and_how_it_is_looked_at_may_change(tmp_path):
    before = RunConfig(output_dir=tmp_path, max_seconds=5)
    after = RunConfig(output_dir=tmp_path / ".", max_seconds=9, quiet=True, resume=True)
    assert resume.differences(run_record(started(before)), after) == []


def test_every_other_change_is_named():
    record = started(RunConfig(seed=3, spread_k=[1, 4]))
    record["device"] = {"name": "abacus", "kind": "cpu"}
    record["versions"] = record["versions"] | {"torch": "0.1"}
    found = resume.differences(run_record(record), RunConfig(seed=5, spread_k=[1, 2]))
    assert "--seed 3, not 5" in found
    assert "--spread-k [1, 4], not [1, 2]" in found
    assert any(text.startswith("device abacus, not ") for text in found)
    assert any(text.startswith("torch 0.1, not ") for text in found)
    assert len(found) == 4


def test_an_option_the_record_does_not_know_differs_only_if_it_is_used():
    record = started(RunConfig())
    del record["config"]["l2"]
    assert resume.differences(run_record(record), RunConfig()) == []
    assert resume.differences(run_record(record), RunConfig(l2="cold")) == ["--l2 None, not cold"]


def test_a_changed_engine_option_of_vllm_s_is_named():
    before, after = {"kv_cache_dtype": "fp8", "enable_lora": True}, {"enable_lora": True}
    record = run_record(started(RunConfig(engine_options=before)))
    assert resume.differences(record, RunConfig(engine_options=before)) == []
    found = resume.differences(record, RunConfig(engine_options=after))
    assert found == ["--kv-cache-dtype fp8, not None"]


def test_a_replay_of_captures_goes_on(tmp_path, monkeypatch):
    """Both the record and the command line have the captures' length and block size."""
    monkeypatch.setattr(headers, "read_shapes", lambda folder: CaptureShapes((640,), 64, (0,)))
    folder = tmp_path / "captures"

    def configured(**more: Any) -> RunConfig:
        asked = RunConfig(from_captures=folder, output_dir=tmp_path / "run", **more)
        return resolve(inputs.adapt(asked, {}), "cpu")

    record = started(configured())
    assert (record["config"]["length"], record["config"]["block_size"]) == (640, 64)
    RunDirectory.create(tmp_path / "run").write_record(run_record(record))
    resume.check(configured(resume=True))


def test_a_series_is_finished_once_all_its_results_are_there():
    half = [result("half", "contiguous")]
    whole = [result("whole", "contiguous"), result("whole", "fragmented")]
    cut = [result("cut", "contiguous"), result("cut", "fragmented", status=Status.INTERRUPTED)]
    assert resume.finished_series([*half, *whole, *cut]) == {"whole"}
    again = [result("cut", "contiguous"), result("cut", "fragmented")]
    assert resume.finished_series([*cut, *again]) == {"cut"}


def test_baselines_controls_and_repeats_of_a_cell_are_counted_apart():
    base = result("s", "paged", size=3)
    twice = [base, base, replace(base, one_segment_for=4)]
    assert resume.finished_series(twice) == set()
    assert resume.finished_series([*twice, replace(base, control=True)]) == {"s"}


def test_failures_and_refusals_finish_a_series_too():
    results = [result("s", arm, status=Status.UNSUPPORTED, samples_us=[]) for arm in ("dense", "paged")]
    assert resume.finished_series(results) == {"s"}


def test_no_run_and_a_finished_one_cannot_go_on(tmp_path):
    config = RunConfig(output_dir=tmp_path, resume=True)
    with pytest.raises(ConfigError, match="holds no run"):
        resume.check(config)
    run = RunDirectory.create(tmp_path)
    run.write_record(run_record(started(config, status="finished")))
    run.summary_path.write_text('{"status": "finished"}')
    with pytest.raises(ConfigError, match="is finished"):
        resume.check(config)
    run.write_record(run_record(started(config)))
    with pytest.raises(ConfigError, match="was started with --seed 0, not 1; resume it as it was"):
        resume.check(config.model_copy(update={"seed": 1}))
