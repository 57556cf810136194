"""What a file of work holds: requests with a text, token ids, a pair or just a length."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

Order = Literal["stock", "sorted", "longest"]  # in which a pool hands out its free blocks: see `allocation`
ORDERS: tuple[Order, ...] = get_args(Order)


class WorkError(ValueError):
    """A file of work that cannot be read: one line with what is wrong, where, and the way out."""


@dataclass(frozen=True)
class WorkRequest:
    """One request; just one of `prompt`, `token_ids`, `pair` and `input_len` is there."""

    line: int  # of the file, from 1; in a JSON list, which entry
    prompt: str | None = None
    token_ids: tuple[int, ...] | None = None
    pair: tuple[str, str] | None = None  # to score: query and document
    input_len: int | None = None  # tokens, of a trace, which has no text
    arrival_s: float | None = None  # since the trace's first request
    hash_ids: tuple[
        int, ...
    ] = ()  # of a trace: an id for every `Work.hash_tokens` tokens; equal ids, equal text


@dataclass(frozen=True)
class Skipped:
    """A line that was left out."""

    line: int
    reason: str


@dataclass(frozen=True)
class Work:
    """The requests of a file, in its order."""

    format: str  # one of `reading.FORMATS`, for people to read
    requests: tuple[WorkRequest, ...]
    skipped: tuple[Skipped, ...] = ()  # at most 1% of the file's lines
    empty: int = 0  # conversations that begin with nothing, left out as vLLM's benches do
    hash_tokens: int | None = None  # tokens of one of the `hash_ids`

    def first(self, count: int) -> Work:
        """The work of its first `count` requests."""
        return replace(self, requests=self.requests[:count])
