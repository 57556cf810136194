"""Cases in the grammar of vLLM's attention benches: prefills are lengths, all else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.workloads import WorkError, case_lengths


@pytest.mark.parametrize(
    ("case", "lengths"),
    [
        ("8x512", (512,) * 8), ("1x2k", (2048,)), ("q2k", (2048,)), ("2q2k", (2048,) * 2), ("q300", (300,)),
        ("2q2ks2k", (2048,) * 2), ("2q1k_q512", (1024, 1024, 512)), ("q1s1", (1,)),
    ],
)  # fmt: skip
def test_prefills(case: str, lengths: tuple[int, ...]) -> None:
    assert case_lengths(case) == lengths


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 64), st.booleans()), min_size=1, max_size=4))
def test_parts_are_counted_one_after_the_other(parts: list[tuple[int, int, bool]]) -> None:
    text = "_".join(f"{count}q{size}{'k' * thousands}" for count, size, thousands in parts)
    expected = [size * (1024 if thousands else 1) for count, size, thousands in parts for _ in range(count)]
    assert case_lengths(text) == tuple(expected)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("32q1s1k", r"^32q1s1k: its 1 tokens follow a cached context; only whole prompts .* e\.g\. 32q1$"),
        ("2q1k_q4s1k", "^q4s1k: its 4 tokens follow"),
        ("", "'': not a case, e.g. 8x512 or 2q2k"),
        ("8x", "'8x': not a case"),
        ("q2m", "'q2m': not a case"),
        ("q٣", "not a case"),
        ("0x5", r"0x5: must be 1\.\.1024 prompts"),
        ("q0", r"q0: a prompt must have 1\.\.131072 tokens"),
        ("q999999k", "q999999k: a prompt must have"),
        ("999q1_999q1", "must be at most 1024 prompts"),
    ],
)
def test_others_are_refused_in_one_line(case: str, message: str) -> None:
    with pytest.raises(WorkError, match=message) as caught:
        case_lengths(case)
    assert "\n" not in str(caught.value)
