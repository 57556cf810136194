"""Features of attention through the real CPU engine: captured, in the reference, replayed and steered."""

from __future__ import annotations

import json

import pytest

from harness import __main__, cli
from harness.engine.options import EngineError
from harness.experiments.prefill.options import RunConfig
from tests import feature_checks
from tests.feature_models import BIDIRECTIONAL, ENCODER, LATENT, MODELS, NO_FLOAT16, NO_KERNEL, save


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_a_feature_is_captured_replayed_and_steered(model, tmp_path):
    statuses = feature_checks.check(model, save(model.model_type, model.options, tmp_path))
    # What SDPA would need a mask of all pairs for leaves the three functions' arms without support.
    expressible = not (model.softcap or model.alibi or model.sinks or set(model.windows) != {(-1, -1)})
    assert (statuses["unsupported"] > 0) == (not expressible or model.kv_heads != model.heads)
    assert statuses["ok"] > 0


@pytest.mark.parametrize("name", ["mixed-windows-softcap", "alibi"])
def test_the_main_job_of_what_the_functions_cannot_do(name, tmp_path):
    model = next(model for model in MODELS if model.name == name)
    options = {
        "model": str(save(model.model_type, model.options, tmp_path / "model")), "dtype": model.dtype,
        "length": "70", "block_size": "32", "spread_k": "1,3", "layers": "all", "repeats": "6",
        "enforce_eager": True, "output_dir": str(tmp_path / "run"),
    }  # fmt: skip
    assert __main__.run_guarded("main", lambda: __main__._start(RunConfig, options)) == cli.OK
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for row in summary["kernels"]:
        functions = row["kernel"].startswith("flash_attn") or row["kernel"] == "gather_qkv"
        assert row["status"] == ("unsupported" if functions else "ok"), row
        assert (row["reason"] is not None) or not functions
    assert {row["status"] for row in summary["end_to_end"]} == {"ok"}


def test_what_vllm_refuses_is_one_line(tmp_path):
    save(*NO_FLOAT16, tmp_path)
    with pytest.raises(
        EngineError, match=r"^vLLM cannot start .*: .*gemma2.* does not support float16[^\n]*$"
    ):
        feature_checks.start(tmp_path, "float16")


def failing(capfd, model, output) -> str:
    """What the main job says at the end, in one line, of a model that it cannot measure."""
    options = {"model": str(model), "length": "70", "enforce_eager": True, "output_dir": str(output)}
    assert __main__.run_guarded("main", lambda: __main__._start(RunConfig, options)) == cli.FAILED
    return capfd.readouterr().err.splitlines()[-1]


def test_latent_attention_is_reported_layer_by_layer(capfd, tmp_path):
    line = failing(capfd, save(*LATENT, tmp_path / "model"), tmp_path / "run")
    assert line.startswith("main: error: no layer of this model has a paged KV cache")
    notices = json.loads((tmp_path / "run" / "run.json").read_text())["notices"]
    for layer in range(LATENT[1]["num_hidden_layers"]):
        assert any(f"layer {layer} left out: " in notice and "(MLA)" in notice for notice in notices)


def test_encoder_only_layers_are_reported_one_by_one(capfd, tmp_path):
    model = save(*BIDIRECTIONAL, tmp_path / "model")
    description = model / "config.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {"is_causal": False}))
    line = failing(capfd, model, tmp_path / "run")
    assert line.startswith("main: error: no layer of this model has a paged KV cache")
    notices = json.loads((tmp_path / "run" / "run.json").read_text())["notices"]
    for layer in range(BIDIRECTIONAL[1]["num_hidden_layers"]):
        assert any(f"layer {layer} left out: " in notice and "encoder-only" in notice for notice in notices)


def refused(capfd, model, output) -> str:
    """The one line of the main job about a model that it refuses before anything starts."""
    capfd.readouterr()  # how the model was saved
    options = {"model": str(model), "length": "70", "load_format": "dummy", "output_dir": str(output)}
    assert __main__.run_guarded("main", lambda: __main__._start(RunConfig, options)) == cli.BAD_INPUT
    (line,) = capfd.readouterr().err.splitlines()
    assert not output.exists()
    return line


def test_a_head_size_without_a_kernel_is_refused_with_those_that_have_one(capfd, tmp_path):
    line = refused(capfd, save(*NO_KERNEL, tmp_path / "model"), tmp_path / "run")
    assert "has heads of 40; vLLM's attention on a CPU takes 32, 48, 64, " in line


def test_an_encoder_is_refused_before_anything_starts(capfd, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(ENCODER))
    assert "bert is an encoder-only model" in refused(capfd, tmp_path, tmp_path / "run")
