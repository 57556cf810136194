"""The plugin on a GPU, each engine in its own process: answers are stock's within rounding."""

from __future__ import annotations

from typing import Any

import pytest

from harness import device
from harness.engine.answers import compare
from harness.engine.child import Child, EngineFailed
from patches import prefill_only
from tests.feature_models import MODELS, save
from tests.plugin.engines import MIXED, ONE_TOKEN, counted, engine_setup

LITTLE_MEMORY: dict[str, Any] = {"gpu_memory_utilization": 0.1, "kv_cache_memory_bytes": 2**30}
KERNELS: dict[str, dict[str, Any]] = {
    "FA2": {"attention_backend": "FLASH_ATTN", "attention_config": {"flash_attn_version": 2}},
    "FA3": {"attention_backend": "FLASH_ATTN", "attention_config": {"flash_attn_version": 3}},
    "Triton": {"attention_backend": "TRITON_ATTN"},
}
# Triton's kernel without a block table has neither; flash attention has ALiBi in version 2, sinks in 3.
LACKING = {
    ("Triton", "mixed-windows-softcap"), ("Triton", "alibi"), ("FA3", "alibi"), ("FA2", "sinks"),
}  # fmt: skip
FEATURES = ("gqa", "window", "mixed-windows-softcap", "alibi", "sinks")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Directories of small models by name."""
    folder = tmp_path_factory.mktemp("models")
    named = {model.name: model for model in MODELS if model.name in FEATURES}
    return {
        name: save(each.model_type, each.options, folder / name, more={"dtype": each.dtype})
        for name, each in named.items()
    }


def start(model, mode, kernel, **more):
    if kernel == "FA3" and (device.describe()["compute_capability"] or "").split(".")[0] != "9":
        pytest.skip("FA3 is for Hopper")
    return Child(counted, engine_setup(model, mode, **(LITTLE_MEMORY | KERNELS[kernel] | more)))


def ask(engine):
    answers = [engine.ask("answers", prompts, one) for prompts in (MIXED, ONE_TOKEN) for one in (True, False)]
    return [answer for group in answers for answer in group]


def verify(expected, engine):
    agreement = compare(expected, ask(engine), engine.facts.dtype)
    assert agreement.equal, agreement
    assert engine.ask("written", MIXED) == 0


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_features_of_attention(kernel, name, models):
    if (kernel, name) in LACKING:
        pytest.skip(f"{kernel} has not what {name} needs")
    try:
        with start(models[name], None, kernel) as stock:
            expected = ask(stock)
            assert stock.ask("written", MIXED) > 0
    except EngineFailed as error:
        pytest.skip(f"stock vLLM does not start: {error}")
    for mode in ("step", "nocache"):
        with start(models[name], mode, kernel) as engine:
            assert engine.facts.mode == mode
            verify(expected, engine)


@pytest.mark.parametrize(("kernel", "name"), [("Triton", "mixed-windows-softcap"), ("Triton", "alibi")])
def test_what_a_kernel_lacks_is_refused(kernel, name, models):
    with pytest.raises(EngineFailed, match="Triton's attention without a block table has no"):
        start(models[name], "step", kernel).close()


@pytest.mark.parametrize("kernel", KERNELS)
def test_requests_that_go_on_and_chunks(kernel, models):
    with start(models["gqa"], None, kernel) as stock:
        expected, (tokens, _) = ask(stock), stock.ask("continued", 12)
    with start(models["gqa"], "step", kernel) as engine:
        got, seen = engine.ask("continued", 12)
        assert got == tokens
        assert not any(seen)
    with start(models["gqa"], "step", kernel, max_num_batched_tokens=64) as engine:
        agreement = compare(expected, ask(engine), engine.facts.dtype)
        assert agreement.equal, agreement
        assert engine.ask("written", MIXED) > 0


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("graphs", ["PIECEWISE", "FULL_AND_PIECEWISE", "FULL"])
def test_cuda_graphs(kernel, graphs, models):
    """Padded rows; full graphs of decoding steps, in which no branch of the plugin's may be frozen; without a
    cache full ones of prompts, captured with other lengths than they run with.
    """
    sizes = [1, 2, 4, 8, 64, 128, 512]
    compiled = {
        "enforce_eager": False,
        "compilation_config": {"cudagraph_mode": graphs, "cudagraph_capture_sizes": sizes},
    }
    with start(models["gqa"], None, kernel, **compiled) as stock:
        expected, (tokens, _) = ask(stock), stock.ask("continued", 12)
    with start(models["gqa"], "step", kernel, **compiled) as engine:
        verify(expected, engine)
        assert engine.ask("continued", 12)[0] == tokens
        assert compare(expected, ask(engine), engine.facts.dtype).equal
    full = graphs == "FULL" and kernel == "FA3" and not prefill_only.ENCODER_ONLY_GRAPHS.problem()
    if graphs != "FULL" or full:  # vLLM refuses the rest for attention without full graphs, naming PIECEWISE
        with start(models["gqa"], "nocache", kernel, **compiled) as engine:
            assert engine.facts.cudagraph_mode == ("FULL" if full else "PIECEWISE")
            verify(expected, engine)
