"""The experiments `backends` and `kvcache` on a GPU: several engines, and memory as PyTorch counts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from harness.config import load
from harness.experiments.backends.measure import run as run_backends
from harness.experiments.backends.options import BackendsConfig, find_model, resolve
from tests.gpu.jobs import harness, record_of, summary_of

# A tiny model's cache would have millions of blocks, and FLEX_ATTENTION an entry of each for every request.
LITTLE_MEMORY = ["--gpu-memory-utilization", "0.1", "--num-gpu-blocks-override", "2000"]


def run_in(folder: Path, experiment: str, model: Path, *argv: object) -> dict[str, Any]:
    """An experiment's summary, of a run in `folder`."""
    always = ("--model", model, "--enforce-eager", "--quiet", "--output-dir", folder)
    harness(experiment, *always, *argv)
    return summary_of(folder)


def reasons(summary: dict) -> set[str | None]:
    return {row["reason"] for row in summary["cells"]}


def test_backends_side_by_side(tiny_gpt2, tmp_path):
    summary = run_in(
        tmp_path, "backends", tiny_gpt2, "--attention-backends", "FLASH_ATTN,TRITON_ATTN",
        "--batch-sizes", "1,4", "--input-lens", "1,100", "--repeats", "8", *LITTLE_MEMORY,
    )  # fmt: skip
    assert {(row["status"], row["n"]) for row in summary["cells"]} == {("ok", 8)}, reasons(summary)
    assert len(summary["cells"]) == 2 * 4
    assert len(summary["winners"]) == 4
    twins = summary["engines_again"]
    assert [(row["backend"], row["n"]) for row in twins] == [("FLASH_ATTN", 8)] * 4
    assert all(row["noise_floor_pct"] > 0 for row in twins)


def test_decoding_and_attention_alone(tiny_gpt2, tmp_path):
    summary = run_in(
        tmp_path, "backends", tiny_gpt2, "--attention-backends", "TRITON_ATTN,sdpa.math", "--output-len", "4",
        "--batch-sizes", "1,4", "--input-lens", "1,100", "--repeats", "8", *LITTLE_MEMORY,
    )  # fmt: skip
    assert {(row["status"], row["n"]) for row in summary["cells"]} == {("ok", 8)}, reasons(summary)
    alone = {(row["arm"], row["batch_size"]): row for row in summary["cells"] if row["input_len"] == 100}
    assert {alone[arm, 4]["data"] for arm in ("gathered", "per_block")} == {"captured"}
    # On top of its inputs a call allocates the buffer at least.
    assert alone["gathered", 4]["extra_bytes"] >= alone["gathered", 4]["buffer_bytes"]


def test_cells_that_do_not_fit_are_oom_and_the_others_go_on(tiny_gpt2, tmp_path):
    summary = run_in(
        tmp_path, "backends", tiny_gpt2, "--attention-backends", "FLASH_ATTN", "--batch-sizes", "1,4",
        "--input-lens", "1,100", "--repeats", "6", "--num-gpu-blocks-override", "12",
        "--gpu-memory-utilization", "0.1",
    )  # fmt: skip
    found = {(row["batch_size"], row["input_len"]): row["status"] for row in summary["cells"]}
    expected = {(1, 1): "ok", (1, 100): "ok", (4, 1): "ok", (4, 100): "out_of_memory"}
    assert found == expected, reasons(summary)


def test_a_call_is_captured_whole_where_the_batch_takes_several_steps(tiny_gpt2, tmp_path):
    """FLEX_ATTENTION's calls are none that can be captured, so it is another backend's that are."""
    summary = run_in(
        tmp_path, "backends", tiny_gpt2, "--attention-backends", "FLEX_ATTENTION,sdpa.math",
        "--batch-sizes", "1,4", "--input-lens", "1,100", "--max-num-batched-tokens", "64", "--repeats", "6",
        *LITTLE_MEMORY,
    )  # fmt: skip
    assert {(row["status"], row["n"]) for row in summary["cells"]} == {("ok", 6)}, reasons(summary)
    assert {(row["data"], row["reason"]) for row in summary["cells"]} == {("captured", None)}
    record = record_of(tmp_path)
    assert record["captured_from"]["attention_backend"] == ["FLASH_ATTN"]


def test_attention_alone_that_does_not_fit_is_oom(tiny_gpt2, tmp_path):
    """With 256 MiB more of the GPU for this process: the engine that captures is another."""
    options: dict[str, Any] = {
        "model": str(tiny_gpt2),
        "attention_backends": ["sdpa.math"],
        "batch_sizes": [1, 512],
    }
    options |= {"input_lens": [120], "repeats": 6, "quiet": True, "gpu_memory_utilization": 0.1}
    config = resolve(load(BackendsConfig, options | {"output_dir": tmp_path}), "cuda")
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**28) / whole)
    try:
        run_backends(config, find_model(config))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    rows = summary_of(tmp_path)["cells"]
    found = {(row["arm"], row["batch_size"]): (row["status"], row["data"]) for row in rows}
    assert found["gathered", 1] == found["per_block", 1] == ("ok", "captured")
    assert found["gathered", 512] == ("out_of_memory", "captured")


def test_generation_in_three_modes(tiny_gpt2, tmp_path):
    summary = run_in(
        tmp_path, "kvcache", tiny_gpt2, "--input-len", "40", "--output-len", "8", "--repeats", "6",
        "--gpu-memory-utilization", "0.1",
    )  # fmt: skip
    assert [(row["status"], row["n"]) for row in summary["modes"]] == [("ok", 6)] * 3
    assert len(summary["speed_ups"]) == 4
    for row in summary["steps"]:
        if row["arm"] == "kv_cache":
            assert row["cache_bytes"] == row["formula_bytes"]
            assert row["memory_bytes"] >= row["cache_bytes"]
