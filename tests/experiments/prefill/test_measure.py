"""The main job with a real engine, as a user runs it."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness import device
from tests.command_line import run_here, wait_for

ROOT = Path(__file__).resolve().parents[3]
FUNCTIONS = {"flash_attn_func", "flash_attn_qkvpacked_func", "flash_attn_with_kvcache"}
KERNEL_KEYS = {
    "kernel", "provider", "arm", "spread_k", "block_size", "layer", "data", "median_us", "mean_us",
    "warmup_us", "n", "status", "reason",
}  # fmt: skip
CONTRAST_KEYS = {"kernel", "baseline", "treatment", "spread_k", "layer", "delta_us", "delta_pct"}
END_TO_END_KEYS = {"arm", "spread_k", "median_ms", "n", "status"}
SWEEP = ["--spread-k=1,3,10", "--repeats=8", "--gap=scattered", "--segment-sizes=random", "--save-captures"]


def command_of(*options: object) -> list[str]:
    return [sys.executable, "run_vllm_prefill.py", *map(str, options)]


def run(*options: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    """A run in this process."""
    done = run_here(*options, function="main_job")
    assert done.returncode == status, done.stderr[-3000:]
    return done


def options_for(model: Path | str, output: Path) -> list[object]:
    fixed = ["--length", 300, "--block-size", 32, "--enforce-eager", "--tables", "all"]
    return ["--model", model, *fixed, "--output-dir", output]


@pytest.fixture(scope="module")
def finished(tiny_gpt2, tmp_path_factory):
    output = tmp_path_factory.mktemp("runs") / "run"
    command = command_of(*options_for(tiny_gpt2, output), *SWEEP)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return output, done


def summary_of(output: Path) -> dict:
    return json.loads((output / "summary.json").read_text())


def test_tables_on_screen(finished):
    _, done = finished
    for spread_k in (1, 3, 10):
        assert f"Comparison Results (spread={spread_k})" in done.stdout
    assert "Summary over all spread_k" in done.stdout
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80  # the last is a path
    assert "learned positions are repeated" in done.stderr


def test_files_of_a_run(finished):
    output, _ = finished
    names = {str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()}
    assert names >= {
        "run.json", "samples.jsonl", "summary.json", "tables.md", "tables.csv", "report.html",
        "plots/spread_k.png", "plots/spread_k.svg",
        "captures/layer-000.safetensors", "captures/layer-002.safetensors",
    }  # fmt: skip
    record = json.loads((output / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["command"][:3] == ["python", "run_vllm_prefill.py", "--model"]
    assert record["config"]["length"] == 300
    assert any("positions" in notice for notice in record["notices"])
    assert set(record["peak_memory_bytes"]) == {"spread=1", "spread=3", "spread=10"}


@pytest.mark.engine
def test_the_summary_keeps_its_contract(finished):
    summary = summary_of(finished[0])
    assert summary["schema_version"] == 2
    assert all(row.keys() >= KERNEL_KEYS for row in summary["kernels"])
    assert all(row.keys() >= CONTRAST_KEYS for row in summary["contrasts"])
    assert all(row.keys() >= END_TO_END_KEYS for row in summary["end_to_end"])
    assert {row["spread_k"] for row in summary["end_to_end"]} == {1, 3, 10}
    arms = {row["arm"] for row in summary["end_to_end"]}
    assert arms == {"engine", "wrapped", "placebo", "paged", "dense", "no_write", "compact"}
    assert all(row["median_ms"] > 0 and row["status"] == "ok" for row in summary["end_to_end"])
    assert {row["status"] for row in summary["kernels"]} == {"ok"}
    for row in summary["kernels"]:
        arms = {"dense", "compact", "random", "paged"}
        if row["kernel"] in FUNCTIONS:
            arms = {"contiguous", "fragmented"}
        elif row["stage"] == "cache_write":
            arms = {"paged"}
        assert row["arm"] in arms
        assert row["n"] == 8
        assert math.isfinite(row["median_us"])


@pytest.mark.engine
def test_every_cell_of_the_sweep_is_there_once(finished):
    keys = [
        (row["kernel"], row["arm"], row["spread_k"], row["layer"], row["data"])
        for row in summary_of(finished[0])["kernels"]
    ]
    assert len(set(keys)) == len(keys)
    kernels = {key[0] for key in keys}
    assert kernels > FUNCTIONS
    assert len(kernels) == 5  # the engine's, and its cache write
    captured = [key for key in keys if key[4] == "captured"]
    arms = 3 * 2 + 3 + 1  # the functions', the engine's kernel's, its cache write
    assert len(captured) == arms * 3 * (3 + 2)  # arms, spreads, layers with their mean and sum
    synthetic = {key[3] for key in keys if key[4] == "synthetic"}
    assert synthetic == {0, "mean", "sum"}, "layers of one shape share their synthetic numbers"


def test_stand_ins_say_so(finished):
    if device.kind() == "cuda":
        pytest.skip("a GPU runs flash-attn itself")
    output, done = finished
    providers = {row["provider"] for row in summary_of(output)["kernels"] if row["kernel"] in FUNCTIONS}
    assert providers == {"SDPA stand-in"}
    assert "nothing about flash-attn" in " ".join(done.stdout.split())


def test_saved_captures_are_replayed_without_an_engine(finished, tmp_path):
    output, _ = finished
    options = ["--spread-k", "1,5", "--repeats", 6, "--output-dir", tmp_path / "again"]
    done = run("--from-captures", output / "captures", *options)
    assert "starting vLLM" not in done.stderr
    summary = summary_of(tmp_path / "again")
    assert summary["end_to_end"] == []
    assert {row["status"] for row in summary["kernels"]} == {"ok"}
    assert {row["spread_k"] for row in summary["kernels"]} == {1, 5}
    assert {row["data"] for row in summary["kernels"]} == {"captured", "synthetic"}


def test_without_synthetic_inputs_only_captured_ones_are_measured(finished, tmp_path):
    output, _ = finished
    options = ["--no-synthetic", "--spread-k", 5, "--layers", 0, "--repeats", 6, "--output-dir", tmp_path]
    done = run("--from-captures", output / "captures", *options, "--overwrite")
    rows = summary_of(tmp_path)["kernels"]
    assert {(row["status"], row["data"], row["n"]) for row in rows} == {("ok", "captured", 6)}
    assert "Summary over all spread_k" in done.stdout


def test_a_batch_of_prompts_in_one_step(tiny_gpt2, tmp_path):
    output, lengths = tmp_path / "run", tmp_path / "lengths.txt"
    lengths.write_text("# of a morning's requests\n300\n2x97@2\n1\n")
    options = ["--batch", lengths, "--block-size", 32, "--enforce-eager", "--layers", 1, "--no-attribution"]
    options += ["--no-synthetic", "--spread-k", "1,5", "--repeats", 6]
    done = run("--model", tiny_gpt2, *options, "--output-dir", output)
    record, summary = json.loads((output / "run.json").read_text()), summary_of(output)
    assert (record["config"]["batch"], record["num_blocks"]) == ("1x1,2x97@2,1x300", 10 + 2 * 4 + 1)
    assert len(record["first_tokens"]) == 4
    assert [request["segments"] for request in record["requests"]] == [
        {"1": 1, "5": 1}, {"1": 1, "5": 2}, {"1": 1, "5": 2}, {"1": 1, "5": 5}
    ]  # fmt: skip
    assert not any("bit for bit" in notice or "asked for" in notice for notice in record["notices"])
    assert {row["data"] for row in summary["kernels"]} == {"captured"}
    engines = [row for row in summary["kernels"] if row["provider"].startswith("vLLM")]
    assert {(row["status"], row["n"]) for row in engines} == {("ok", 6)}
    stand_ins = [row for row in summary["kernels"] if row["kernel"] in FUNCTIONS]
    assert {row["status"] for row in stand_ins} == {"unsupported"}, "they take prompts of one length"
    assert all("requests of different lengths" in row["reason"] for row in stand_ins)
    alone = {row["request"]: row for row in summary["requests"]}
    assert [(row["count"], row["length"], row["spread_k"]) for row in alone.values()] == [
        (1, 1, 1), (2, 97, 2), (1, 300, 5), (4, None, None), (None, None, 5)
    ]  # fmt: skip
    assert {(row["status"], row["layer"]) for row in alone.values()} == {("ok", 1)}
    assert alone["sum"]["paged_us"] == pytest.approx(
        sum(alone[n]["paged_us"] * (1 + (n == 1)) for n in (0, 1, 3))
    )
    assert {row["spread_k"]: row["status"] for row in summary["end_to_end"]} == {1: "ok", 5: "ok"}
    assert "4 prompts (1x1, 2x97, 1x300)" in done.stdout


def test_a_run_is_not_overwritten_unless_asked(finished, tiny_gpt2):
    output, _ = finished
    done = run(*options_for(tiny_gpt2, output), status=2)
    assert "--overwrite" in done.stderr
    assert summary_of(output)["status"] == "finished"


def test_report_rebuilds_the_views_without_torch(finished, tmp_path):
    output, _ = finished
    before = (output / "summary.json").read_text()
    (output / "summary.json").unlink()
    code = (
        "import sys; from harness.__main__ import main; "
        f"status = main(['report', {str(output)!r}]); assert 'torch' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Summary over all spread_k" in done.stdout
    assert (output / "summary.json").read_text() == before


def cells(output: Path) -> dict[tuple, list[dict]]:
    """Lines of samples.jsonl by series, arm and so on."""
    found: dict[tuple, list[dict]] = {}
    for line in (output / "samples.jsonl").read_text().splitlines():
        result = json.loads(line)
        cell = json.dumps(result["cell"], sort_keys=True)
        key = (result["series"], cell, result["one_segment_for"], result["control"])
        found.setdefault(key, []).append(result)
    return found


def started(output: Path, lines: int, *options: object) -> subprocess.Popen[bytes]:
    """The main job in a process of its own, once its run has so many results, of about 160 in all."""
    job = subprocess.Popen(
        command_of(*options),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job's is ignored
    )
    samples = output / "samples.jsonl"
    wait_for(job, lambda: samples.exists() and samples.read_bytes().count(b"\n") >= lines, seconds=240)
    return job


def test_a_killed_run_and_one_that_ctrl_c_ended_go_on_without_repeating_finished_cells(
    finished, tiny_gpt2, tmp_path
):
    """SIGKILL while series are being written, then SIGINT; the end is that of a run left alone."""
    output = tmp_path / "run"
    options = [*options_for(tiny_gpt2, output), *SWEEP]
    first = random.randint(3, 70)
    job = started(output, first, *options)
    job.kill()
    job.wait()
    samples = output / "samples.jsonl"
    with samples.open("ab") as file:
        file.write(b'{"cell": {"stage": "ker')  # what a kill in the middle of a line leaves

    job = started(output, random.randint(first + 15, 130), *options, "--resume")
    job.send_signal(signal.SIGINT)
    assert job.wait(timeout=60) == 130
    assert json.loads((output / "run.json").read_text())["status"] == "interrupted"
    rows = summary_of(output)["kernels"]
    assert rows
    assert {row["status"] for row in rows} <= {"ok", "interrupted"}

    other = run(*options, "--resume", "--seed", 5, status=2)
    assert "--seed 0, not 5" in other.stderr
    run(*options, "--resume")
    whole = cells(finished[0])
    resumed = cells(output)
    assert resumed.keys() == whole.keys()
    sizes = {key[0]: sum(other[0] == key[0] for other in whole) for key in whole}
    for key, lines in resumed.items():
        complete = [line for line in lines if line["status"] == "ok" and len(line["samples_us"]) == 8]
        assert complete
        assert lines[-1]["series_size"] == sizes[key[0]]
    repeated = {key[0] for key, lines in resumed.items() if len(lines) > 1}
    for series in repeated:  # only a series that was cut short may be there twice
        first_lines = [lines for key, lines in resumed.items() if key[0] == series]
        assert any(len(lines) == 1 or lines[0]["status"] == "interrupted" for lines in first_lines)
    assert json.loads((output / "run.json").read_text())["status"] == "finished"
    assert "finished" in run(*options, "--resume", status=2).stderr


@pytest.mark.engine
def test_smollm2_predicts_what_transformers_predicts(tmp_path):
    """Real weights and a real tokenizer, through the command line."""
    from harness import models, prompt

    text = tmp_path / "prompt.txt"
    text.write_text("The capital of France is")
    options = ["--model", "smollm2-135m", "--length", 5, "--prompt-file", text, "--block-size", 32]
    options += ["--enforce-eager", "--no-attribution", "--layers", 0, "--repeats", 3]
    run(*options, "--output-dir", tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    rows = summary_of(tmp_path / "run")["kernels"]
    assert all("grouped-query" in row["reason"] for row in rows if row["status"] != "ok")
    assert sum(row["status"] == "ok" for row in rows) > len(rows) / 2

    import torch
    from transformers import AutoModelForCausalLM

    source = models.materialise(models.inspect("smollm2-135m", length=5), seed=0)
    ids, origin = prompt.token_ids(source, [5], text, 0)
    assert record["prompt"] == origin
    model = AutoModelForCausalLM.from_pretrained(source.path, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor(ids)).logits[0, -1]
    assert logits.topk(2).values.diff().abs() > 0.5, (
        "the prediction must be clear for the comparison to mean much"
    )
    assert record["first_tokens"] == [int(logits.argmax())]
