"""Features of attention through real GPU engines, one process each: see tests/feature_checks.py."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.feature_models import LATENT, MODELS, save
from tests.gpu.jobs import LITTLE_MEMORY, ROOT, harness


@pytest.mark.parametrize("backend", ["FLASH_ATTN", "TRITON_ATTN"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_feature_is_captured_replayed_and_steered(model, backend, tmp_path):
    path = save(model.model_type, model.options, tmp_path)
    command = [sys.executable, "-m", "tests.feature_checks", model.name, str(path), backend]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "'_moe_C' object has no attribute" in done.stderr:
        pytest.skip("this build of vLLM has no kernels for mixtures of experts")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "'ok'" in done.stdout


def test_latent_attention_is_reported_layer_by_layer(tmp_path):
    path = save(*LATENT, tmp_path / "model")
    done = harness(
        "prefill", "--model", path, "--length", 70, "--block-size", 64, "--enforce-eager", *LITTLE_MEMORY,
        "--output-dir", tmp_path / "run", status=1,
    )  # fmt: skip
    assert "error: no layer of this model has a paged KV cache" in done.stderr.splitlines()[-1]
    assert "layer 1 left out: " in done.stderr
