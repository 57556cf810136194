"""The main job by subprocess with engines beside its own: another block size, and one that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from harness import device
from tests.command_line import wait_for

ROOT = Path(__file__).resolve().parents[3]
ARMS = {"engine", "paged", "dense", "no_write"}


@pytest.fixture(scope="module")
def finished(tiny_gpt2, tmp_path_factory):
    """Its directory and its output; the second baseline was killed once all engines were up."""
    output = tmp_path_factory.mktemp("runs") / "run"
    command = [
        sys.executable, "run_vllm_prefill.py", "--model", str(tiny_gpt2), "--length", "100",
        "--enforce-eager", "--block-size", "32", "--block-sizes", "32,64", "--spread-k", "1",
        "--layers", "0", "--repeats", "40", "--no-attribution", "--output-dir", str(output),
    ]  # fmt: skip
    job = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(job, lambda: engines_are_up(output), seconds=300)
    engines = [engine for server in psutil.Process(job.pid).children() for engine in server.children()]
    _, second, _ = sorted(engines, key=psutil.Process.create_time)
    os.kill(second.pid, signal.SIGKILL)
    screen, errors = job.communicate(timeout=300)
    assert job.returncode == 0, errors[-3000:]
    assert not [child for child in engines if child.is_running() and child.status() != "zombie"]
    return output, screen


def engines_are_up(output: Path) -> bool:
    if not (output / "run.json").exists():
        return False
    noted = json.loads((output / "run.json").read_text()).get("variants", {})
    return "logits_error" in noted.get("block_size=64", {})


def variants_of(output: Path) -> dict[str, dict]:
    rows = json.loads((output / "summary.json").read_text())["variants"]
    return {row["variant"]: row for row in rows}


def test_every_engine_has_its_row_and_one_that_died_says_so(finished):
    rows = variants_of(finished[0])
    assert list(rows) == ["baseline", "baseline again", "block_size=64"]
    for name in ("baseline", "block_size=64"):
        row = rows[name]
        assert (row["status"], row["n"]) == ("ok", 40)
        assert row["engine_ms"] > 0
        for cost in (row["paging"], row["cache_write"]):
            assert cost["n"] == 40
            assert cost["ci95_ms"][0] <= cost["ms"] <= cost["ci95_ms"][1]
    died = rows["baseline again"]
    assert died["status"] == "error"
    assert "SIGKILL" in died["reason"]
    row = rows["block_size=64"]
    assert (row["option"], row["value"], row["baseline"]) == ("block_size", 64, "block_size=32")
    assert row["ci95_pct"][0] <= row["delta_pct"] <= row["ci95_pct"][1]
    if died["ci95_pct"] is None:  # it may have given some rounds before it died
        assert (row["noise_floor_pct"], row["verdict"]) == (None, "unclear")


def test_all_engines_were_sampled_in_one_interleaved_series(finished):
    lines = [json.loads(line) for line in (finished[0] / "samples.jsonl").read_text().splitlines()]
    series = [line for line in lines if line["series"] == "variants"]
    assert len(series) == 3 * len(ARMS)
    assert {line["cell"]["arm"] for line in series} == ARMS
    sizes = {(line["cell"]["variant"], line["cell"]["block_size"]) for line in series}
    assert sizes == {("baseline", 32), ("block_size=64", 64)}
    assert {line["seed"] for line in series if line["status"] == "ok"} == {0}


def test_engines_that_differ_in_one_option_give_the_same_logits(finished):
    noted = json.loads((finished[0] / "run.json").read_text())["variants"]
    assert [noted[name]["settings"]["block_size"] for name in noted] == [32, 32, 64]
    assert all(0 <= each["logits_error"] < 0.05 for each in noted.values())


def test_screen_and_notices_say_what_was_added(finished):
    output, screen = finished
    record = json.loads((output / "run.json").read_text())
    assert record["status"] == "finished"
    assert any(notice.startswith("3 more engines side by side") for notice in record["notices"])
    assert "Prefill, end to end, other engines" in screen
    assert "What the cache costs in each engine" in screen
    if device.kind() == "cpu":
        assert "packed into one block first" in screen.partition("What the cache costs")[2]


def test_a_finished_series_of_engines_is_not_started_again(finished):
    """No model is given, which starting an engine would need."""
    from harness.experiments.prefill import other_engines as variants
    from harness.experiments.prefill.options import RunConfig, resolve
    from harness.experiments.prefill.replaying import Replaying
    from harness.running.recorder import Recorder

    output = finished[0]
    config = json.loads((output / "run.json").read_text())["config"] | {"resume": True, "output_dir": output}
    resumed = resolve(RunConfig.model_validate(config, strict=False), device.kind())
    recorder = Recorder(resumed, "tiny")
    before = (output / "samples.jsonl").read_bytes()
    variants.measure(None, [], Replaying(resumed, recorder), recorder)
    assert (output / "samples.jsonl").read_bytes() == before
