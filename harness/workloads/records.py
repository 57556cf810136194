"""One record of JSON as a request: what `vllm bench`, its score API, ShareGPT and traces call things."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from harness import files
from harness.workloads.work import WorkRequest

LONGEST = 2**24  # tokens of a request in a trace
LARGEST_ID = 2**31 - 1  # of a token
PAIRS = (("text_1", "text_2"), ("query", "document"), ("query", "documents"), ("queries", "documents"))


class RecordError(ValueError):
    """What is wrong with a record; whoever reads the file knows its line."""


def parse_record(record: Any, line: int) -> tuple[str, list[WorkRequest]]:
    """What kind of record this is, one of `reading.FORMATS`, and its requests.

    One query with several documents is a request for each; a conversation is its first turn, and no request
    if that is empty.

    Raises:
        RecordError: no such record, or one that could be two kinds.
    """
    if isinstance(record, list):
        return "token ids", [WorkRequest(line, token_ids=_token_ids(record, "the list"))]
    if not isinstance(record, dict):
        raise RecordError(f"{files.shorten(str(record), 20)}: must be an object or a list of token ids")
    kinds = {kind for keys, kind, _ in _KINDS if all(key in record for key in keys)}
    if len(kinds) != 1:
        raise RecordError(_unclear(record, sorted(kinds)))
    keys, kind, parse = next(known for known in _KINDS if all(key in record for key in known[0]))
    return kind, [*parse(record, keys, line)]


Parse = Callable[[dict[str, Any], tuple[str, ...], int], Iterator[WorkRequest]]


def _prompt(record: dict[str, Any], keys: tuple[str, ...], line: int) -> Iterator[WorkRequest]:
    if isinstance(record["prompt"], list):  # as vLLM's API takes it
        yield WorkRequest(line, token_ids=_token_ids(record["prompt"], "prompt"))
    else:
        yield WorkRequest(line, prompt=_text(record["prompt"], "prompt"))


def _ids(record: dict[str, Any], keys: tuple[str, ...], line: int) -> Iterator[WorkRequest]:
    yield WorkRequest(line, token_ids=_token_ids(record["prompt_token_ids"], "prompt_token_ids"))


def _conversation(record: dict[str, Any], keys: tuple[str, ...], line: int) -> Iterator[WorkRequest]:
    turns = record["conversations"]
    if not isinstance(turns, list):
        raise RecordError("conversations: must be a list of turns")
    for turn in turns[:1]:
        if not isinstance(turn, dict):
            raise RecordError('conversations.0: must be an object with a "value"')
        if turn.get("value") != "":
            yield WorkRequest(line, prompt=_text(turn.get("value"), "conversations.0.value"))


def _pairs(record: dict[str, Any], keys: tuple[str, ...], line: int) -> Iterator[WorkRequest]:
    one, other = keys
    first = _text(record[one], one)
    seconds = record[other] if isinstance(record[other], list) else [record[other]]
    if not seconds:
        raise RecordError(f"{other}: is empty")
    for second in seconds:
        yield WorkRequest(line, pair=(first, _text(second, other)))


def _of_trace(record: dict[str, Any], keys: tuple[str, ...], line: int) -> Iterator[WorkRequest]:
    timestamp_ms, hash_ids = record.get("timestamp"), record.get("hash_ids", [])
    if timestamp_ms is not None and (not _is_number(timestamp_ms) or timestamp_ms < 0):
        raise RecordError(f"timestamp {files.shorten(str(timestamp_ms), 40)}: must be milliseconds from 0")
    if not isinstance(hash_ids, list) or not all(type(each) is int and each >= 0 for each in hash_ids):
        raise RecordError("hash_ids: must be a list of whole numbers from 0")
    yield WorkRequest(
        line,
        input_len=check_length(record["input_length"], "input_length"),
        arrival_s=None if timestamp_ms is None else timestamp_ms / 1000,
        hash_ids=tuple(hash_ids),
    )


_KINDS: tuple[tuple[tuple[str, ...], str, Parse], ...] = (
    (("prompt",), "prompts", _prompt),
    (("prompt_token_ids",), "token ids", _ids),
    (("conversations",), "ShareGPT", _conversation),
    *((keys, "pairs", _pairs) for keys in PAIRS),
    (("input_length",), "Mooncake trace", _of_trace),
)


def check_length(value: object, name: str) -> int:
    """A request's length in tokens; raises RecordError if it cannot be one."""
    if type(value) is not int or not 1 <= value <= LONGEST:
        raise RecordError(f"{name} {files.shorten(str(value), 40)}: must be a whole number, 1..{LONGEST}")
    return value


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise RecordError(f"{name}: must be a text")
    if not value:
        raise RecordError(f"{name}: is empty")
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can hold
        raise RecordError(f"{name}: not a text that UTF-8 can hold") from None
    return value


def _token_ids(value: object, name: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not value:
        raise RecordError(f"{name}: must be a list of at least one token id")
    for index, each in enumerate(value):
        if type(each) is not int or not 0 <= each <= LARGEST_ID:
            raise RecordError(
                f"{name}.{index}: {files.shorten(str(each), 20)}: must be a token id, 0..{LARGEST_ID}"
            )
    return tuple(value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _unclear(record: dict[str, Any], kinds: list[str]) -> str:
    if kinds:
        return f"could be of {' or of '.join(kinds)}; leave only one kind's keys"
    has = files.shorten(", ".join(map(str, record)), 60) or "nothing"
    if "messages" in record:
        return "has messages; apply the model's chat template to them, and write them as a prompt"
    known = ", ".join(dict.fromkeys(" and ".join(keys) for keys, _, _ in _KINDS))
    return f"has {has}; must have one of {known}"
