"""The main job as a user runs it, with FA3 and FA2, and with each of its special cases."""

from __future__ import annotations

import pytest

from tests.gpu.jobs import LITTLE_MEMORY, harness, record_of, summary_of


@pytest.mark.parametrize("fa_version", [3, 2])
def test_gpt2(fa_version, tmp_path):
    done = harness(
        "prefill", "--model", "gpt2", "--length", 1024, "--layers", "0,11", "--spread-k", "1,4,64",
        "--repeats", 5, "--enforce-eager", "--flash-attn-version", fa_version, *LITTLE_MEMORY,
        "--tables", "all", "--output-dir", tmp_path,
    )  # fmt: skip
    for spread_k in (1, 4, 64):
        assert f"Comparison Results (spread={spread_k})" in done.stdout
    summary = summary_of(tmp_path)
    kernels, end_to_end = summary["kernels"], summary["end_to_end"]
    assert {row["status"] for row in kernels} == {"ok"}, {row["reason"] for row in kernels}
    providers = {row["provider"] for row in kernels}
    assert f"vLLM FA{fa_version}" in providers
    assert any(provider.startswith("flash-attn 2") for provider in providers)
    assert {row["status"] for row in end_to_end} == {"ok"}, {row["reason"] for row in end_to_end}
    assert {row["spread_k"] for row in end_to_end if row["arm"] == "paged"} == {1, 4, 64}
    measured = {row["component"]: row["ms"] for row in summary["attribution"]["measured"]}
    assert None not in measured.values(), measured


@pytest.mark.parametrize("prompts", [("--length", "1"), ("--batch", "3x1")])
def test_one_token_prompts(prompts, tmp_path):
    harness(
        "prefill", "--model", "gpt2", *prompts, "--layers", 0, "--repeats", 5, *LITTLE_MEMORY,
        "--output-dir", tmp_path,
    )  # fmt: skip
    record, kernels = record_of(tmp_path), summary_of(tmp_path)["kernels"]
    assert record["engine"]["enforce_eager"]
    assert any("without CUDA graphs" in notice for notice in record["notices"])
    assert {row["status"] for row in kernels} == {"ok"}, {row["reason"] for row in kernels}


def test_each_prompt_of_a_batch_has_its_own_blocks(tmp_path):
    """Single tokens among them, in an order vLLM would not keep."""
    harness(
        "prefill", "--model", "gpt2", "--batch", "1x700,3x100@2,2x1", "--layers", 0, "--spread-k", "1,8",
        "--repeats", 5, "--enforce-eager", *LITTLE_MEMORY, "--output-dir", tmp_path,
    )  # fmt: skip
    summary = summary_of(tmp_path)
    kernels, end_to_end = summary["kernels"], summary["end_to_end"]
    assert {row["status"] for row in kernels} <= {"ok", "unsupported"}, {row["reason"] for row in kernels}
    assert {row["status"] for row in end_to_end} == {"ok"}, {row["reason"] for row in end_to_end}
