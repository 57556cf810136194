"""What vLLM is started with, and what of it stays in this process's environment."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.config import EngineSpec
from harness.engine.options import batched_tokens, engine_environment, environment
from harness.plugin import mode
from tests.engines import inputs

COUNT = st.integers(1, 300)


@given(tokens=st.integers(1, 5000), prompts=COUNT, most=COUNT)
def test_no_dummy_prompt_of_a_step_is_longer_than_a_prompt_may_be(
    tokens: int, prompts: int, most: int
) -> None:
    found = batched_tokens(EngineSpec(most, prompts, tokens, block_size=32))
    share, left_over = divmod(found, prompts)  # as GPUModelRunner._dummy_run of vLLM 0.26 has it
    assert share + left_over <= most
    assert found >= min(tokens, prompts * most)  # prompts that fit one step still do
    if sum(divmod(tokens, prompts)) <= most:
        assert found == tokens


def test_engines_are_vllm_as_it_is_even_where_the_plugin_is_asked_for(tiny_gpt2, monkeypatch):
    monkeypatch.setenv(mode.VARIABLE, "step")
    with environment(engine_environment(*inputs(tiny_gpt2, length=50))):
        assert mode.requested() is None
    assert mode.requested() == "step"


def test_processes_of_an_engine_talk_over_the_loopback_unless_the_user_says_otherwise(tiny_gpt2, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    variables = engine_environment(*inputs(tiny_gpt2, length=50))
    assert variables["VLLM_HOST_IP"] == "127.0.0.1"
    assert variables["NCCL_SOCKET_IFNAME"] == "lo"
    assert "GLOO_SOCKET_IFNAME" not in variables
