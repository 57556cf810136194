"""The experiment `backends` on a CPU: whole runs with cells that do not fit, and decoding."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from harness.config import ConfigError, load
from harness.experiments.backends.engine import BackendEngine
from harness.experiments.backends.measure import run
from harness.experiments.backends.options import BackendsConfig, find_model, resolve
from harness.runs.store import Interrupted
from tests.command_line import run_here
from tests.engines import children_here


@pytest.fixture(scope="module", autouse=True)
def _engines_here():
    with children_here():
        yield


def backends(model: Path, folder: Path, options: str) -> subprocess.CompletedProcess[str]:
    places = ["--model", model, "--output-dir", folder, "--block-size", 32]
    return run_here("backends", *places, *options.split())


@pytest.fixture(scope="module")
def prefills(tiny_gpt2, tmp_path_factory):
    """Its directory and its output: prompts of 1 and 90 tokens, 1 and 4 at once; 4 x 90 do not fit."""
    folder = tmp_path_factory.mktemp("backends") / "run"
    asked = "--batch-sizes 1,4 --input-lens 1,90 --num-gpu-blocks-override 9 --max-num-batched-tokens 64"
    done = backends(tiny_gpt2, folder, f"--enforce-eager --repeats 7 {asked}")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done.stdout


def cells_of(folder: Path) -> dict[tuple[str, int, int], dict]:
    cells = json.loads((folder / "summary.json").read_text())["cells"]
    return {(row["backend"], row["batch_size"], row["input_len"]): row for row in cells}


def test_every_cell_is_measured_or_says_why_not(prefills):
    cells = cells_of(prefills[0])
    assert len(cells) == 3 * 4
    lost = cells.pop(("CPU_ATTN", 4, 90))
    assert (lost["status"], lost["n"]) == ("out_of_memory", 0)
    assert lost["reason"] == "its KV cache needs 12 blocks, but there are 8"
    assert {(row["status"], row["n"]) for row in cells.values()} == {("ok", 7)}
    assert all(row["tokens_per_s"] > 0 for row in cells.values())


def test_attention_alone_runs_on_calls_of_the_cell_s_own_prefill(prefills):
    """Also where the batch takes several steps, and where it did not fit the cache that was asked for."""
    cells = cells_of(prefills[0])
    alone = [row for row in cells.values() if row["attention_alone"]]
    assert {(row["data"], row["reason"]) for row in alone} == {("captured", None)}
    assert "captured Q, K and V, 3 layers" in prefills[1]


def test_buffers_are_reported(prefills):
    cells = cells_of(prefills[0])
    block = 32 * 2 * 128 * 2  # K and V, all heads, bfloat16
    assert cells["sdpa.math", 4, 90]["buffer_bytes"] == 4 * 3 * block
    assert cells["per block", 4, 90]["buffer_bytes"] == 4 * block


def test_screen_and_plots(prefills):
    folder, screen = prefills
    assert "Prefill, batch size 4: tokens/s" in screen
    assert "OOM [2]" in screen
    assert "The fastest of vLLM's backends" not in screen  # there is one
    assert {path.stem for path in (folder / "plots").iterdir()} == {"backends"}


def test_an_engine_s_cells_are_one_interleaved_series(prefills):
    lines = [json.loads(line) for line in (prefills[0] / "samples.jsonl").read_text().splitlines()]
    by_series: dict[str, set] = {}
    for line in lines:
        by_series.setdefault(line["series"], set()).add(line["series_size"])
    assert by_series.pop("CPU_ATTN") == {4}
    assert len(by_series) == 4
    assert set.union(*by_series.values()) == {3}


def test_decoding_one_token_prompts_in_the_least_time(tiny_gpt2, tmp_path):
    asked = "--batch-sizes 1,3 --input-lens 1,40 --output-len 4 --max-seconds 0.001"
    done = backends(tiny_gpt2, tmp_path, f"--enforce-eager {asked}")
    assert done.returncode == 0, done.stderr[-3000:]
    cells = cells_of(tmp_path)
    assert len(cells) == 3 * 4
    assert {(row["status"], row["n"]) for row in cells.values()} == {("ok", 6)}
    assert {row["data"] for row in cells.values()} == {"captured"}
    row = cells["CPU_ATTN", 3, 1]
    assert row["tokens_per_s"] == pytest.approx(3 * 3 / row["median_us"] * 1e6)
    assert "Decoding, batch size 3: tokens/s" in done.stdout
    assert all(row["ci95_us"] for row in cells.values())
    record = json.loads((tmp_path / "run.json").read_text())
    assert any("the fewest samples a cell has are 6; sampling took" in text for text in record["notices"])
    assert record["engines"]["CPU_ATTN"]["attention_backend"] == ["CPU_ATTN"]


def test_attention_alone_has_random_inputs_where_no_engine_can_be_captured(tiny_gpt2, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1000000")  # GiB: no machine has them
    asked = "--attention-backends sdpa.math --batch-sizes 2 --input-lens 40 --repeats 3"
    done = backends(tiny_gpt2, tmp_path, asked)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = cells_of(tmp_path).values()
    assert {(row["status"], row["n"], row["data"]) for row in rows} == {("ok", 3, "synthetic")}
    assert all(
        row["reason"].startswith("random Q, K and V: the engine could not capture it: ") for row in rows
    )
    assert "Note: sdpa.math: random Q, K and V for cells that could not be captured" in done.stdout


def test_a_run_that_is_interrupted_ahead_of_sampling_keeps_what_does_not_fit(
    tiny_gpt2, tmp_path, monkeypatch
):
    ahead = BackendEngine._run

    def interrupted(self, engine, ids):
        if len(ids[0]) == 90:
            raise KeyboardInterrupt
        return ahead(self, engine, ids)

    monkeypatch.setattr(BackendEngine, "_run", interrupted)
    options = {"model": str(tiny_gpt2), "enforce_eager": True, "batch_sizes": [1, 64], "input_lens": [1, 90]}
    options |= {"attention_backends": ["CPU_ATTN"], "block_size": 32, "num_gpu_blocks_override": 9}
    options |= {"quiet": True, "output_dir": tmp_path}
    config = resolve(load(BackendsConfig, options), "cpu")
    with pytest.raises(Interrupted):
        run(config, find_model(config))
    cells = cells_of(tmp_path)
    lost = cells.pop(("CPU_ATTN", 64, 1))
    assert (lost["status"], lost["reason"]) == (
        "out_of_memory",
        "its KV cache needs 64 blocks, but there are 8",
    )
    assert {(row["status"], row["n"]) for row in cells.values()} == {("interrupted", 0)}
    assert len(cells) == 3


def test_the_first_backend_that_runs_has_a_second_engine(tiny_gpt2, tmp_path):
    """And one that vLLM knows but cannot run here is a row of cells with the reason."""
    options = {"model": str(tiny_gpt2), "enforce_eager": True, "batch_sizes": [1, 2], "input_lens": [1]}
    options |= {"block_size": 32, "repeats": 6, "quiet": True, "output_dir": tmp_path}
    config = resolve(load(BackendsConfig, options), "cpu")
    # The command line does not take the first one on a CPU.
    config = config.model_copy(update={"attention_backends": ["TRITON_ATTN", "CPU_ATTN"]})
    run(config, find_model(config))
    summary = json.loads((tmp_path / "summary.json").read_text())
    found = {(row["backend"], row["status"], row["n"]) for row in summary["cells"]}
    assert found == {("TRITON_ATTN", "unsupported", 0), ("CPU_ATTN", "ok", 6)}
    assert {row["reason"] for row in summary["cells"] if row["status"] != "ok"} == {
        "vLLM took CPU_ATTN instead of TRITON_ATTN"
    }
    twins = summary["engines_again"]
    assert [(row["backend"], row["batch_size"], row["n"]) for row in twins] == [
        ("CPU_ATTN", 1, 6),
        ("CPU_ATTN", 2, 6),
    ]
    assert all(row["noise_floor_pct"] > 0 for row in twins)
    record = json.loads((tmp_path / "run.json").read_text())
    assert set(record["engines"]) == {"TRITON_ATTN", "CPU_ATTN", "CPU_ATTN again"}


def test_what_is_not_given_follows_from_the_device():
    cpu, cuda = (resolve(load(BackendsConfig, {}), kind) for kind in ("cpu", "cuda"))
    assert cpu.attention_backends == ["CPU_ATTN", "sdpa.math"]
    assert cuda.attention_backends == ["FLASH_ATTN", "TRITON_ATTN", "FLEX_ATTENTION", "sdpa.math"]
    assert len(cuda.cells()) == 7 * 3
    assert cuda.max_num_batched_tokens == 32768
    small = resolve(load(BackendsConfig, {"batch_sizes": [2], "input_lens": [300]}), "cuda")
    assert small.max_num_batched_tokens == 600


def test_names_are_read_in_any_case_and_once():
    named = {"attention_backends": ["cpu_attn", "SDPA.math", "CPU_ATTN"]}
    assert load(BackendsConfig, named).attention_backends == ["CPU_ATTN", "sdpa.math"]
    with pytest.raises(ConfigError, match="attention-backends"):
        resolve(load(BackendsConfig, {"attention_backends": ["TRITON_ATTN"]}), "cpu")
