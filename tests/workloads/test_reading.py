"""Files of work: read as what they hold, refused by line where they hold something else."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.workloads import Work, WorkError, WorkRequest, is_records, parse_work, read_work

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def lines(*records: Any) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def only(work: Work) -> WorkRequest:
    (request,) = work.requests
    return request


@given(st.lists(TEXT, min_size=1, max_size=5), st.booleans(), st.booleans())
def test_prompts_come_back_as_they_were_written(texts: list[str], ascii: bool, last_newline: bool) -> None:
    content = "\n".join(
        json.dumps({"prompt": text, "output_tokens": 3}, ensure_ascii=ascii) for text in texts
    )
    work = parse_work((content + "\n" * last_newline).encode())
    assert (work.format, work.skipped) == ("prompts", ())
    assert [(request.line, request.prompt) for request in work.requests] == [*enumerate(texts, 1)]


@pytest.mark.parametrize(
    ("content", "form", "request_"),
    [
        (b"One text.\n", "texts", WorkRequest(1, prompt="One text.")),
        (b"\n \n[1] cites, a text\r\n", "texts", WorkRequest(3, prompt="[1] cites, a text")),
        (b'\xef\xbb\xbf{"prompt": "marked"}', "prompts", WorkRequest(1, prompt="marked")),
        (lines({"prompt": [5, 6]}), "prompts", WorkRequest(1, token_ids=(5, 6))),
        (lines([5, 6, 0]), "token ids", WorkRequest(1, token_ids=(5, 6, 0))),
        (lines({"prompt_token_ids": [7]}), "token ids", WorkRequest(1, token_ids=(7,))),
        (lines({"text_1": "a", "text_2": "b"}), "pairs", WorkRequest(1, pair=("a", "b"))),
        (lines({"query": "a", "document": "b"}), "pairs", WorkRequest(1, pair=("a", "b"))),
        (lines({"queries": "a", "documents": ["b"]}), "pairs", WorkRequest(1, pair=("a", "b"))),
        (
            b'[\n {"id": "x",\n  "conversations": [{"from": "human", "value": "Hi"}, {"value": "Yes"}]}\n]',
            "ShareGPT",
            WorkRequest(1, prompt="Hi"),
        ),
        (
            b"Timestamp,Model,Request tokens,Response tokens,Total tokens\n5,GPT-4,472,18,490\n",
            "BurstGPT trace",
            WorkRequest(2, input_len=472, arrival_s=0.0),
        ),
        (
            lines({"timestamp": 9, "input_length": 513, "output_length": 1, "hash_ids": [0, 4]}),
            "Mooncake trace",
            WorkRequest(1, input_len=513, arrival_s=0.0, hash_ids=(0, 4)),
        ),
    ],
)  # fmt: skip
def test_formats_are_known_by_their_content(content: bytes, form: str, request_: WorkRequest) -> None:
    work = parse_work(content)
    assert work.format == form
    assert only(work) == request_


def test_a_list_on_one_line_and_over_many_holds_the_same_records() -> None:
    records = [
        {"conversations": [{"value": "Hi"}]},
        {"conversations": []},
        {"conversations": [{"value": ""}]},
    ]
    flat, indented = (parse_work(json.dumps(records, indent=indent).encode()) for indent in (None, 1))
    assert flat == indented
    assert (only(flat).prompt, flat.empty) == ("Hi", 2)


def test_one_query_with_several_documents_is_a_request_for_each() -> None:
    work = parse_work(lines({"query": "q", "documents": ["a", "b"]}))
    assert [(request.line, request.pair) for request in work.requests] == [(1, ("q", "a")), (1, ("q", "b"))]


def test_arrivals_are_seconds_from_the_first_request_on() -> None:
    azure = parse_work(
        b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
        b"2023-11-16 18:17:03.9799600,4808,10\n2023-11-16 18:17:04.0319600,3180,8\n"
    )
    assert [request.arrival_s for request in azure.requests] == [0, 0.052]
    mooncake = parse_work(lines(*({"timestamp": ms, "input_length": 1} for ms in (3000, 3500))))
    assert [request.arrival_s for request in mooncake.requests] == [0, 0.5]
    untimed = parse_work(lines({"input_length": 1}, {"input_length": 2}))
    assert [request.arrival_s for request in untimed.requests] == [None, None]


@given(
    st.sampled_from([16, 64, 512]),
    st.lists(st.integers(1, 5000), min_size=1, max_size=20).map(lambda n: [*n, 5000]),
)
def test_the_tokens_of_a_hash_id_follow_from_the_lengths(size: int, lengths: list[int]) -> None:
    work = parse_work(lines(*({"input_length": n, "hash_ids": [*range(-(-n // size))]} for n in lengths)))
    assert work.hash_tokens == size
    assert len(work.requests) == len(lengths)


def test_one_wrong_line_in_a_hundred_is_left_out_and_named() -> None:
    good = [json.dumps({"prompt": "a"})] * 99
    work = parse_work("\n".join([*good[:41], '{"prompt": "cut sho', *good[41:]]).encode())
    assert len(work.requests) == 99
    (skipped,) = work.skipped
    assert skipped.line == 42
    assert "not JSON" in skipped.reason
    two = "\n".join([*good[:41], '{"prompt": 3}', *good[41:], '{"prompt": ""}']).encode()
    with pytest.raises(
        WorkError, match=r"^line 42: prompt: must be a text \(2 of 101 lines wrong; at most 1%"
    ):
        parse_work(two)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no text; write one a line"),
        (b" \n\n", "holds no text; write one a line"),
        (b"\xff\xfeH\x00", "line 1: not UTF-8 text"),
        (
            b'{"prompt": "a"}\n{"text": "b"}\n',
            "line 2: has text; must have one of prompt, prompt_token_ids, conv",
        ),
        (b'{"prompt": "a"}\n[1]\n', "line 2: token ids in a file of prompts"),
        (b'{"prompt": "a", "input_length": 3}', "could be of Mooncake trace or of prompts; leave only one"),
        (b'{"messages": [{"role": "user", "content": "a"}]}', "apply the model's chat template"),
        (b'{"prompt": "\\ud800"}', "prompt: not a text that UTF-8 can hold"),
        (b'{"prompt": NaN}', "line 1: not JSON"),
        (b'[{"a":' * 5000, "line 1: not JSON: nested too deeply"),
        (b"[[1, 2], [true]]", "record 2: the list.0: True: must be a token id"),
        (b"[1, -1]", "line 1: the list.1: -1: must be a token id"),
        (b"[]", "the list: must be a list of at least one token id"),
        (b'{"text_1": "a", "text_2": 3}', "text_2: must be a text"),
        (b'{"query": "a", "documents": []}', "documents: is empty"),
        (b'{"conversations": []}', "holds no request"),
        (b'{"input_length": 0}', r"input_length 0: must be a whole number, 1\.\.16777216"),
        (b'{"input_length": 5, "hash_ids": ["a"]}', "hash_ids: must be a list of whole numbers"),
        (b'{"input_length": 5, "timestamp": -1}', "timestamp -1: must be milliseconds from 0"),
        (
            b'{"input_length": 5, "timestamp": 0}\n{"input_length": 5}',
            "line 2: has no timestamp, as other lines",
        ),
        (
            b'{"input_length": 5, "hash_ids": [1, 2, 3, 4, 5, 6]}',
            "6 hash ids for 5 tokens; must be one for every",
        ),
        (b"TIMESTAMP,ContextTokens\nyesterday,5\n", "line 2: 'yesterday': must be seconds, or a date"),
        (b"TIMESTAMP,ContextTokens\n1,5,7\n", "line 2: has 3 cells; the header has 2"),
        (b"TIMESTAMP,ContextTokens\nnan,5\n", "line 2: nan: must be finite"),
        (b"TIMESTAMP,ContextTokens\n", "holds no request"),
        (b'cut"}\n{"prompt": "a"}\n{"prompt": "b"}\n', "line 1: a text, though most lines are JSON"),
        (b'"one"\n"two"\n', "line 1: a text, though most lines are quoted"),
    ],
)
def test_files_that_do_not_do_are_refused_with_the_line(content: bytes, message: str) -> None:
    with pytest.raises(WorkError, match=message) as caught:
        parse_work(content)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.csv", "neither the header of BurstGPT's"),
        ("a.jsonl", "line 1: not JSON, though the file is named .jsonl"),
    ],
)
def test_a_name_that_the_content_contradicts_is_refused(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("prompt,length\nHello,1\n")
    with pytest.raises(WorkError, match=message):
        read_work(tmp_path / name)


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("pipe", "not a regular file"), ("none", "No such file")):
        with pytest.raises(WorkError, match=f"cannot be read: {message}"):
            read_work(tmp_path / name)


@given(st.binary(max_size=200))
def test_any_content_is_read_or_refused_in_one_line(content: bytes) -> None:
    try:
        assert parse_work(content).requests
    except WorkError as error:
        if not str(error).isprintable():
            raise


@pytest.mark.parametrize(
    ("content", "records"),
    [
        (b"Once upon a time\n", False),
        (b"[Chorus] la\n", False),
        (b"{braces} in prose\n", False),
        (b"", False),
        (b'{"prompt": "cut', True),
        (b'[\n{"conv', True),
        (b"[1, 2]\n", True),
        (b"TIMESTAMP,ContextTokens,GeneratedTokens\n", True),
        (b'\n {"prompt": "a"}\n', True),
    ],
)
def test_prose_is_told_from_records(content: bytes, records: bool) -> None:
    assert is_records(content) == records
