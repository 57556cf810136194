"""The main job by subprocess, as a user runs it, with FA3 and FA2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("fa_version", [3, 2])
def test_gpt2(fa_version, tmp_path):
    command = [
        sys.executable, "run_vllm_prefill.py", "--model", "gpt2", "--length", "1024", "--layers", "0,11",
        "--spread-k", "1,4,64", "--repeats", "5", "--enforce-eager", "--flash-attn-version", str(fa_version),
        "--output-dir", str(tmp_path / "run"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for spread_k in (1, 4, 64):
        assert f"Comparison Results (spread={spread_k})" in done.stdout
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    kernels = summary["kernels"]
    assert {row["status"] for row in kernels} == {"ok"}, {row["reason"] for row in kernels}
    providers = {row["provider"] for row in kernels}
    assert f"vLLM FA{fa_version}" in providers
    assert any(provider.startswith("flash-attn 2") for provider in providers)
    end_to_end = summary["end_to_end"]
    assert {row["status"] for row in end_to_end} == {"ok"}, {row["reason"] for row in end_to_end}
    assert {row["spread_k"] for row in end_to_end if row["arm"] == "paged"} == {1, 4, 64}
    measured = {row["component"]: row["ms"] for row in summary["attribution"]["measured"]}
    assert None not in measured.values(), measured


@pytest.mark.parametrize("prompts", [("--length", "1"), ("--batch", "3x1")])
def test_one_token_prompts(prompts, tmp_path):
    command = [
        sys.executable, "run_vllm_prefill.py", "--model", "gpt2", *prompts, "--layers", "0", "--repeats", "5",
        "--output-dir", str(tmp_path / "run"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["engine"]["enforce_eager"]
    assert any("without CUDA graphs" in notice for notice in record["notices"])
    kernels = json.loads((tmp_path / "run" / "summary.json").read_text())["kernels"]
    assert {row["status"] for row in kernels} == {"ok"}, {row["reason"] for row in kernels}
