"""A work's requests as token ids: texts encoded, a trace's lengths filled with seeded random tokens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from harness import files
from harness.layout import Ints
from harness.workloads.work import Work, WorkError, WorkRequest

Encode = Callable[[str], Sequence[int]]


def token_ids(
    work: Work,
    encode: Encode | None,
    vocab_size: int,
    seed: int,
    *,
    special_ids: Collection[int] = (),
) -> Iterator[list[int]]:
    """The token ids of each request, made as they are asked for.

    A trace has no text: its tokens are random, and the same wherever its hash ids are.

    Args:
        encode: a text's token ids, with those that start a prompt; None for a model without a tokenizer.
        special_ids: what random tokens leave out.
        seed: of random tokens.

    Raises:
        WorkError: a request is a pair, a text without a tokenizer, empty once encoded, or not within the
            vocabulary; its line is named.
    """
    random = _Random(vocab_size, special_ids, seed)
    for request in work.requests:
        yield _of_request(request, work, encode, random)


def _of_request(request: WorkRequest, work: Work, encode: Encode | None, random: _Random) -> list[int]:
    line = f"line {request.line}"
    if request.input_len is not None:
        return random.fill(request, work.hash_tokens)
    if request.prompt is not None:
        if encode is None:
            raise WorkError(f"{line}: is a text, and the model has no tokenizer; write token ids instead")
        ids = [*encode(request.prompt)]
        if not ids:
            raise WorkError(f"{line}: {files.shorten(request.prompt, 20)!r} has no token")
        return ids
    if request.token_ids is None:
        raise WorkError(f"{line}: is a pair to score, not a prompt")
    if (largest := max(request.token_ids)) >= random.vocab_size:
        raise WorkError(f"{line}: token id {largest}: the model's go up to {random.vocab_size - 1}")
    return [*request.token_ids]


class _Random:
    """Ordinary tokens of a vocabulary, by the seed and by what they are for."""

    def __init__(self, vocab_size: int, special_ids: Collection[int], seed: int) -> None:
        self.vocab_size, self.seed = vocab_size, seed
        ordinary = np.ones(vocab_size, dtype=bool)
        ordinary[[i for i in special_ids if 0 <= i < vocab_size]] = False
        self.ordinary: Ints = np.flatnonzero(ordinary)
        self.of_hash: dict[int, list[int]] = {}

    def fill(self, request: WorkRequest, hash_tokens: int | None) -> list[int]:
        """As many tokens as a request has, those of each of its hash ids first."""
        assert request.input_len is not None
        if not hash_tokens or not request.hash_ids:
            return self._draw(request.input_len, 0, request.line)
        for hash_id in request.hash_ids:
            if hash_id not in self.of_hash:
                self.of_hash[hash_id] = self._draw(hash_tokens, 1, hash_id)
        return [token for hash_id in request.hash_ids for token in self.of_hash[hash_id]][: request.input_len]

    def _draw(self, count: int, *purpose: int) -> list[int]:
        drawn: list[int] = np.random.default_rng([self.seed, *purpose]).choice(self.ordinary, count).tolist()
        return drawn
