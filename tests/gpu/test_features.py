"""Features of attention through real GPU engines, one process each: see tests/feature_checks.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.feature_models import LATENT, MODELS, save

ROOT = Path(__file__).resolve().parents[2]


def run(*command: object) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, *map(str, command)]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("backend", ["FLASH_ATTN", "TRITON_ATTN"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_feature_is_captured_replayed_and_steered(model, backend, tmp_path):
    path = save(model.model_type, model.options, tmp_path)
    done = run("-m", "tests.feature_checks", model.name, path, backend)
    if "'_moe_C' object has no attribute" in done.stderr:
        pytest.skip("this build of vLLM has no kernels for mixtures of experts")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "'ok'" in done.stdout


def test_latent_attention_is_reported_layer_by_layer(tmp_path):
    path = save(*LATENT, tmp_path / "model")
    done = run(
        "run_vllm_prefill.py", "--model", path, "--length", 70, "--block-size", 64, "--enforce-eager",
        "--gpu-memory-utilization", 0.2, "--output-dir", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 1
    assert "error: no layer of this model has a paged KV cache" in done.stderr.splitlines()[-1]
    assert "layer 1 left out: " in done.stderr
