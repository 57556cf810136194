"""Names of vLLM's that are read from its source: they are those that it has itself, and no others."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args

import pytest

from harness.config import ConfigError, load, vllm_names
from harness.experiments.backends.options import BackendsConfig
from harness.experiments.backends.options import resolve as resolve_backends
from harness.experiments.prefill.options import RunConfig, resolve

UNKNOWN = "--load-format safetensor: vLLM has no such load format; take one of the nearest, safetensors, "


@pytest.mark.engine
def test_the_names_are_those_that_vllm_has() -> None:
    from vllm import EngineArgs
    from vllm.config.lora import MaxLoRARanks
    from vllm.config.scheduler import SchedulerPolicy
    from vllm.model_executor import model_loader
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    assert set(vllm_names.load_formats()) == set(model_loader._LOAD_FORMAT_TO_MODEL_LOADER)
    assert set(vllm_names.backends()) == set(AttentionBackendEnum.__members__)
    fields = {field.name for field in dataclasses.fields(EngineArgs) if not field.name.startswith("_")}
    assert set(vllm_names.engine_args()) == fields
    assert vllm_names.engine_arg_choices("scheduling_policy") == get_args(SchedulerPolicy)
    assert vllm_names.engine_arg_choices("max_lora_rank") == get_args(MaxLoRARanks)


def test_a_load_format_is_read_in_any_case_as_vllm_does() -> None:
    assert resolve(load(RunConfig, {"load_format": "DUMMY"}), "cpu").load_format == "dummy"


def test_a_load_format_that_vllm_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match=UNKNOWN):
        resolve(load(RunConfig, {"load_format": "safetensor"}), "cpu")
    alone = {"load_format": "safetensor", "attention_backends": ["sdpa.math"]}
    with pytest.raises(ConfigError, match=UNKNOWN):  # its calls are captured in an engine
        resolve_backends(load(BackendsConfig, alone), "cpu")


def test_a_plugin_of_vllm_may_bring_a_load_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tmp_path / "our_loader-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: our-loader\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[vllm.general_plugins]\nour_loader = our_loader:register\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve(load(RunConfig, {"load_format": "ours"}), "cpu").load_format == "ours"
