"""The plugin in real engines: the answers are stock's, bit for bit, and the cache is left alone.

Each test has what would go wrong were a step taken for one that it is not.
"""

from __future__ import annotations

import pytest

from harness.plugin.mode import ON_DOUBT, Refused
from patches import prefill_only
from tests.feature_models import BIDIRECTIONAL, MODELS, save
from tests.plugin.engines import (
    MIXED,
    ONE_TOKEN,
    backends,
    continue_beside,
    counting_steps,
    engine,
    save_tokenizer,
)

pytestmark = pytest.mark.engine
CHUNK = 64  # tokens of a step, fewer than the longest prompts


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Grouped heads, rotary positions."""
    by_name = {model.name: model for model in MODELS}
    path = save("llama", by_name["gqa"].options, tmp_path_factory.mktemp("models"))
    save_tokenizer(path)
    return path


def asked_for(served):
    """Answers of prompts of all kinds, and tokens of requests that go on."""
    return {
        "alone": served.answers(MIXED, True),
        "together": served.answers(MIXED, False),
        "one token each": served.answers(ONE_TOKEN, False),
    }


@pytest.fixture(scope="module")
def stock(model):
    """What vLLM answers without the plugin."""
    with engine(model, None) as served:
        assert backends(served) == {"CPUAttentionBackend"}
        assert served.written(MIXED) > 0
        return asked_for(served) | {"continued": continue_beside(served, 12)}


@pytest.fixture(scope="class")  # one engine at a time: closing one ends what vLLM keeps for all of a process
def stepping(model, stock):
    with engine(model, "step") as served:
        yield served


class TestStep:
    def test_answers_are_stocks(self, stepping, stock):
        assert backends(stepping) == {"PrefillOnlyCPUAttention"}
        assert asked_for(stepping) == {name: stock[name] for name in ("alone", "together", "one token each")}

    def test_whole_prompts_leave_the_cache_alone(self, stepping):
        with counting_steps() as seen:
            assert stepping.written(MIXED) == 0
        assert seen == [True]

    def test_steps_of_one_token_prompts_are_left_to_decoding_graphs(self, stepping):
        with counting_steps() as seen:
            assert stepping.written(ONE_TOKEN) > 0
        assert seen == [False]

    def test_a_request_that_goes_on_has_its_keys_and_values(self, stepping, stock):
        with counting_steps() as seen:
            assert continue_beside(stepping, 12) == stock["continued"]
        assert not any(seen)  # also while a prefill runs beside the decoding request


def test_chunked_prompts_take_the_ordinary_path(model, stock):
    with engine(model, "step", max_num_batched_tokens=CHUNK) as served, counting_steps() as seen:
        assert served.answers(MIXED, True) == stock["alone"]
        assert seen[:5] == [False, True, True, True, True]  # of 1, 2, 31, 32 and 33 tokens
        assert not any(seen[5:])
        assert len(seen) == 5 + 2 + 3


def test_nocache_has_no_cache_and_the_same_answers(model, stock):
    bad_request = prefill_only.BAD_REQUEST.resolve()
    with engine(model, "nocache") as served:
        assert asked_for(served) == {name: stock[name] for name in ("alone", "together", "one token each")}
        assert served.facts().pool_bytes == 0
        with pytest.raises(
            bad_request, match=r"^max_tokens=2: VLLM_PREFILL_ONLY=nocache keeps no K and V, .* to 1$"
        ):
            continue_beside(served, 2)
        assert served.answers(MIXED[:2], True) == stock["alone"][:2]


@pytest.mark.parametrize("name", ["mixed-windows-softcap", "window", "alibi", "sinks", "learned-offset"])
@pytest.mark.parametrize("mode", ["step", "nocache"])
def test_features_of_attention(name, mode, tmp_path):
    of_name = next(model for model in MODELS if model.name == name)
    path = save(of_name.model_type, of_name.options, tmp_path)
    arguments = {"dtype": of_name.dtype}
    with engine(path, None, **arguments) as served:
        expected = served.answers(MIXED, False)
    with engine(path, mode, **arguments) as served:
        assert served.answers(MIXED, False) == expected
        assert served.written(MIXED) == 0


@pytest.mark.parametrize("mode", ["step", "nocache"])
def test_embeddings(model, mode):
    pooling = {"runner": "pooling", "convert": "embed", "skip_tokenizer_init": False}
    with engine(model, None, **pooling) as served:
        expected = served.answers(MIXED, True) + served.answers(MIXED, False)
    with engine(model, mode, **pooling) as served:
        assert served.answers(MIXED, True) + served.answers(MIXED, False) == expected
        assert served.written(MIXED) == 0


def test_an_encoder_is_refused_and_is_not_what_a_decoder_is(tmp_path):
    """vLLM's own way to leave the cache out, `is_causal`, attends in both directions: other answers."""
    path = save(*BIDIRECTIONAL, tmp_path)
    with engine(path, None) as served:
        causal = served.answers(MIXED[-1:], False)
    with engine(path, None, hf_overrides={"is_causal": False}) as served:
        assert served.answers(MIXED[-1:], False) != causal
    with (
        pytest.raises(Refused, match="layers of kind EncoderOnlyAttention"),
        engine(path, "step", hf_overrides={"is_causal": False}),
    ):
        pass


def test_in_doubt_vllm_can_go_on_as_it_is(model, stock, monkeypatch, caplog):
    with (
        pytest.raises(Refused, match=r"prefix caching would find .*; or set"),
        engine(model, "step", enable_prefix_caching=True),
    ):
        pass
    monkeypatch.setenv(ON_DOUBT, "off")
    with engine(model, "step", enable_prefix_caching=True) as served:
        assert backends(served) == {"CPUAttentionBackend"}
        assert served.facts().mode is None
        assert served.answers(MIXED, True) == stock["alone"]
        assert served.answers(MIXED, True) == stock["alone"]  # prefix hits


def test_a_doubt_about_layers_leaves_the_steps_as_they_are(model, stock, monkeypatch):
    from harness.plugin import cpu

    monkeypatch.setattr(cpu.CPUImpl, "why_not", lambda self: "it is a test")
    with (
        pytest.raises(Refused, match="VLLM_PREFILL_ONLY=nocache: it is a test; unset"),
        engine(model, "nocache"),
    ):
        pass
    monkeypatch.setenv(ON_DOUBT, "off")
    with engine(model, "step") as served:
        assert served.answers(MIXED, True) == stock["alone"]
        assert served.written(MIXED) > 0


def test_afterwards_vllm_is_as_before(model, stock):
    with engine(model, None) as served:
        assert backends(served) == {"CPUAttentionBackend"}
        assert asked_for(served)["together"] == stock["together"]
        assert served.written(MIXED) > 0
