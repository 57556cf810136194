"""Requests as token ids: texts as the tokenizer has them; a trace shares tokens where it shares hash ids."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.workloads import WorkError, parse_work
from harness.workloads.tokens import token_ids


def encode(text: str) -> list[int]:
    return [0, *map(len, text.split())]


@given(
    st.lists(st.tuples(st.integers(1, 2000), st.integers(0, 5)), min_size=1, max_size=6),
    st.integers(0, 2**32),
)
def test_requests_of_a_trace_share_just_what_their_hash_ids_share(
    requests: list[tuple[int, int]], seed: int
) -> None:
    """A request has `shared` ids 0, 1, ... of 512 tokens, and then some of its own."""
    records = []
    for index, (length, shared) in enumerate(requests):
        ids = [n if n < shared else 1000 * (index + 1) + n for n in range(-(-length // 512))]
        records.append({"input_length": length, "hash_ids": ids})
    work = parse_work("\n".join(map(json.dumps, records)).encode())
    prompts = [*token_ids(work, None, 1000, seed, special_ids=[0, 999, 5000])]
    assert [len(ids) for ids in prompts] == [length for length, _ in requests]
    assert all(0 < token < 999 for ids in prompts for token in ids)
    assert prompts == [*token_ids(work, None, 1000, seed, special_ids=[0, 999, 5000])]
    for one, (_, shared_one) in zip(prompts, requests, strict=True):
        for other, (_, shared_other) in zip(prompts, requests, strict=True):
            common = min(512 * min(shared_one, shared_other), len(one), len(other))
            assert one[:common] == other[:common]
            if one is not other and min(len(one), len(other)) >= common + 40:
                assert one[common : common + 40] != other[common : common + 40]


def test_requests_of_a_trace_without_hash_ids_share_nothing() -> None:
    work = parse_work(b"Timestamp,Request tokens\n1,50\n2,50\n")
    one, other = token_ids(work, None, 1000, seed=3)
    assert one != other
    assert next(token_ids(work, None, 1000, seed=4)) != one


def test_texts_and_token_ids() -> None:
    assert [*token_ids(parse_work(b"a bc\ndef\n"), encode, 50, 0)] == [[0, 1, 2], [0, 3]]
    assert [*token_ids(parse_work(b"[4, 49]\n"), None, 50, 0)] == [[4, 49]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[4]\n[4, 50]\n", "line 2: token id 50: the model's go up to 49"),
        (b"\nA text\n", "line 2: is a text, and the model has no tokenizer"),
        (b'{"text_1": "a", "text_2": "b"}', "line 1: is a pair to score, not a prompt"),
    ],
)
def test_requests_that_a_model_cannot_take_are_named_by_line(content: bytes, message: str) -> None:
    with pytest.raises(WorkError, match=message):
        list(token_ids(parse_work(content), None, 50, 0))
    if b"A text" in content:
        with pytest.raises(WorkError, match="line 2: 'A text' has no token"):
            list(token_ids(parse_work(content), lambda text: [], 50, 0))
