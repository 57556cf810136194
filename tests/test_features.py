"""Features of attention through the real CPU engine: captured, in the reference, replayed and steered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.engine import EngineError
from tests import feature_checks
from tests.feature_models import ENCODER, LATENT, MODELS, NO_KERNEL, save

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_feature_is_captured_replayed_and_steered(model, tmp_path):
    statuses = feature_checks.check(model, save(model.model_type, model.options, tmp_path))
    # What SDPA would need a mask of all pairs for leaves the three functions' arms without support.
    expressible = not (model.softcap or model.alibi or model.sinks or set(model.windows) != {(-1, -1)})
    assert (statuses["unsupported"] > 0) == (not expressible or model.kv_heads != model.heads)
    assert statuses["ok"] > 0


def test_what_the_engine_refuses_is_one_line(tmp_path):
    save(*NO_KERNEL, tmp_path)
    with pytest.raises(EngineError, match=r"^vLLM does not take .*: .*[Hh]ead.*size.*48[^\n]*$"):
        feature_checks.start(tmp_path, "bfloat16")


def run(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "run_vllm_prefill.py", "--length", "70", *map(str, options)]
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def test_latent_attention_is_reported_layer_by_layer(tmp_path):
    model, output = save(*LATENT, tmp_path / "model"), tmp_path / "run"
    done = run("--model", model, "--enforce-eager", "--output-dir", output)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "error: no layer of this model has a paged KV cache" in done.stderr.splitlines()[-1]
    notices = json.loads((output / "run.json").read_text())["notices"]
    for layer in range(LATENT[1]["num_hidden_layers"]):
        assert any(f"layer {layer} left out: " in notice and "(MLA)" in notice for notice in notices)


def test_an_encoder_is_refused_before_anything_starts(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(ENCODER))
    done = run("--model", tmp_path, "--load-format", "dummy", "--output-dir", tmp_path / "run")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "bert is an encoder-only model" in line
    assert not (tmp_path / "run").exists()
