"""Features of attention through the real CPU engine: captured, in the reference, replayed and steered."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import __main__, cli
from harness.engine import inengine, prefills
from harness.engine.options import EngineError
from harness.experiments.prefill.options import RunConfig
from patches import Symbol
from tests import feature_checks
from tests.feature_models import (
    BIDIRECTIONAL,
    ENCODER,
    KINDS,
    LATENT,
    MODELS,
    NO_FLOAT16,
    NO_KERNEL,
    SHARED,
    save,
)  # fmt: skip

SINCE_0_30 = Symbol("vllm:LLM", since="0.30")


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


def run(model: Path, output: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The record and the summary of a main job that must succeed."""
    options = {
        "model": str(model), "length": "70", "block_size": "32", "spread_k": "1,3", "layers": "all",
        "repeats": "6", "enforce_eager": True, "output_dir": str(output),
    }  # fmt: skip
    assert __main__.run_guarded("main", lambda: __main__._start(RunConfig, options)) == cli.OK
    record, summary = (json.loads((output / name).read_text()) for name in ("run.json", "summary.json"))
    return record, summary


@pytest.mark.parametrize("name", KINDS)
def test_layers_other_than_plain_attention_are_named_and_the_rest_measured(name, tmp_path):
    kind = KINDS[name]
    model = save(kind.model_type, kind.options, tmp_path / "model", more=kind.config)
    record, summary = run(model, tmp_path / "run")
    assert any(re.search(kind.note, notice) for notice in record["notices"]), record["notices"]
    assert record["layers"] == kind.layers
    status = {row["arm"]: row["status"] for row in summary["end_to_end"]}
    assert status.keys() >= {"engine", "wrapped", "paged", "dense", "no_write", "compact"}
    assert {arm for arm, word in status.items() if word != "ok"} == kind.unsupported
    engines = [row for row in summary["kernels"] if row["provider"] == "vLLM CPU"]
    attention = {row["status"] for row in engines if row["stage"] == "kernel"}
    assert attention == {"unsupported" if kind.unsupported else "ok"}
    assert {row["status"] for row in summary["kernels"]} <= {"ok", "unsupported"}


@pytest.mark.skipif(not SINCE_0_30.needed, reason="earlier ones want weights that no checkpoint has")
def test_layers_that_read_anothers_k_and_v_run_as_in_vllm(tmp_path):
    # The padding token's embedding is zero, which this model divides by.
    prompts = [[token or 1 for token in prompt] for prompt in feature_checks.PROMPTS]
    with torch.inference_mode(), feature_checks.start(save(*SHARED, tmp_path), "bfloat16") as engine:
        blocks = engine.free_block_ids()[:3]
        _, captured = prefills.capture(engine, prompts, [blocks], None)
        assert list(captured.calls) == [0, 1]
        assert list(captured.skipped) == [2, 3]
        assert "reads those of model.layers.1.self_attn.attn" in captured.skipped[3]
        arms = inengine.arms(engine, {1: [blocks]}, natural_k=1, spin_us=None, longest=feature_checks.LENGTH)
        outcomes = {}
        for arm in arms:
            for layer in engine.ranks.only.layers.values():
                layer.kv_cache[blocks] = 0  # what an arm does not write, the layers after it cannot read
            with engine.ranks.during("observing_logits") as seen:
                done = engine.prefill(prompts, arm.block_ids, arm.override)
            outcomes[arm.name] = inengine.Outcome(seen[0][-1], done.first_tokens)
            own = outcomes[arm.name]
            assert inengine.objection(own, outcomes["engine"], own) is None, arm
        assert {"dense", "no_write", "compact"} <= outcomes.keys()


def test_latent_attention_is_named_and_whole_prefills_are_timed(tmp_path):
    pytest.importorskip("vllm.v1.attention.backends.mla.cpu_mla", reason="no MLA on a CPU before 0.28")
    record, summary = run(save(*LATENT, tmp_path / "model"), tmp_path / "run")
    assert any(re.search(r"^layers 0, 1 left out: .*\(MLA\)", notice) for notice in record["notices"]), (
        record["notices"]
    )
    assert [(row["arm"], row["spread_k"], row["status"]) for row in summary["end_to_end"]] == [
        ("paged", 1, "ok"), ("paged", 3, "ok"),
    ]  # fmt: skip
    assert summary["kernels"] == []


def test_encoder_only_layers_are_named(capfd, tmp_path):
    model = save(*BIDIRECTIONAL, tmp_path / "model", more={"is_causal": False})
    line = failing(capfd, model, tmp_path / "run")
    assert line.startswith("main: error: no layer of this model has a paged KV cache")
    notices = json.loads((tmp_path / "run" / "run.json").read_text())["notices"]
    assert any(re.search(r"^layers 0, 1 left out: .*encoder-only", notice) for notice in notices)


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
    assert "it is a pooling model (architecture BertModel)" in refused(capfd, tmp_path, tmp_path / "run")
