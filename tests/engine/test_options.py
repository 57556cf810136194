"""What vLLM is started with, and what of it stays in this process's environment."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from harness.engine.options import whole_shares

COUNT = st.integers(1, 300)


@given(tokens=st.integers(1, 5000), prompts=COUNT, most=COUNT)
def test_no_dummy_prompt_of_a_step_is_longer_than_a_prompt_may_be(
    tokens: int, prompts: int, most: int
) -> None:
    asked = {"max_num_batched_tokens": tokens, "max_num_seqs": prompts, "max_model_len": most, "seed": 1}
    arguments = whole_shares(asked)
    found = arguments.pop("max_num_batched_tokens")
    share, left_over = divmod(found, prompts)  # as GPUModelRunner._dummy_run of vLLM 0.26 has it
    assert share + left_over <= most
    assert found >= min(tokens, prompts * most)  # prompts that fit one step still do
    if sum(divmod(tokens, prompts)) <= most:
        assert found == tokens
    assert arguments == {name: value for name, value in asked.items() if name != "max_num_batched_tokens"}
