"""The prompts of a run: their lengths and, where given, a spread_k for each."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from harness import files
from harness.units import MIB, pluralise

LONGEST, MOST_REQUESTS = 131072, 1024
LENGTH_LIMIT = f"a prompt must have 1..{LONGEST} tokens"
MOST_FILE_BYTES = MIB
# A number of more digits is beyond every limit.
_PART = re.compile(r"(?:(?P<count>\d{1,20})x)?(?P<length>\d{1,20})(?:@(?P<segments>\d{1,20}))?", re.ASCII)
_SHOWN_GROUPS = 4


class BatchError(ValueError):
    """An invalid batch; the message names the part, the limit and the way out."""


@dataclass(frozen=True)
class Request:
    """One prompt of a batch."""

    length: int  # tokens
    spread_k: int | None = None  # its own number of segments at every spread_k but 1; None: as the sweep says

    def segments(self, spread_k: int, blocks: int) -> int:
        """How many segments its `blocks` blocks are split into at a spread_k of the sweep.

        At 1, the baseline, it is one segment. Otherwise its own number or the sweep's, at most its number of
        blocks.
        """
        return 1 if spread_k == 1 else min(self.spread_k or spread_k, blocks)


Batch = tuple[Request, ...]


def parse(text: str) -> Batch:
    """The requests of "4x1024", "1x4096,8x512" or "4096,17@3".

    A part is a length; NxLENGTH, N of them; LENGTH@K, split into K segments whatever the sweep says. The
    shortest come first: vLLM's newer model runner sorts a step's requests this way, so that prompts and block
    table rows have the same order with either runner.

    Raises:
        BatchError: no such text, or not within 1..LONGEST tokens and 1..MOST_REQUESTS prompts.
    """
    return _batch([part.strip() for part in text.split(",")])


def parse_or_read(text: str) -> Batch:
    """As `parse`, or the requests of a file with such a part on each line, where `#` begins a comment.

    Raises BatchError as `parse` does, and if the file cannot be read; the file's text is not quoted.
    """
    parts = [part.strip() for part in text.split(",")]
    return _batch(parts if all(map(_PART.fullmatch, parts)) else _lines(text))


def format_batch(batch: Batch) -> str:
    """The batch as `parse` reads it, e.g. "1x4096,8x512@4"."""
    parts = []
    for request, same in groupby(batch):
        own = f"@{request.spread_k}" if request.spread_k else ""
        parts.append(f"{len(list(same))}x{request.length}{own}")
    return ",".join(parts)


def describe(batch: Batch) -> str:
    """For titles: "4096 tokens", "9 prompts (1x4096, 8x512)", "90 prompts of 3 to 512 tokens"."""
    lengths = [request.length for request in batch]
    if len(batch) == 1:
        return pluralise(lengths[0], "token")
    groups = [f"{len(list(same))}x{length}" for length, same in groupby(lengths)]
    if len(groups) <= _SHOWN_GROUPS:
        return f"{len(batch)} prompts ({', '.join(groups)})"
    return f"{len(batch)} prompts of {min(lengths)} to {max(lengths)} tokens"


def blocks(batch: Batch, block_size: int) -> list[int]:
    """Blocks of each request's KV cache."""
    from harness import layout

    return [layout.num_blocks(request.length, block_size) for request in batch]


def segments(batch: Batch, spread_k: int, block_size: int) -> list[int]:
    """How many segments each request's blocks are split into at a spread_k of the sweep."""
    return [
        request.segments(spread_k, n) for request, n in zip(batch, blocks(batch, block_size), strict=True)
    ]


def largest_spread(batch: Batch, block_size: int) -> int:
    """The spread_k above which a larger one changes nothing."""
    of_requests = zip(batch, blocks(batch, block_size), strict=True)
    return max(request.spread_k or n for request, n in of_requests)


def default_spreads(batch: Batch, block_size: int, factor: int = 2) -> list[int]:
    """The powers of `factor` and the largest; only 1 and the largest where nothing in between would
    differ.
    """
    from harness import layout

    most = largest_spread(batch, block_size)
    return sorted({1, most}) if all(r.spread_k for r in batch) else layout.default_spreads(most, factor)


def num_tokens(batch: Sequence[Request]) -> int:
    """Tokens of all requests together."""
    return sum(request.length for request in batch)


def prefill_steps(tokens: int, max_num_batched_tokens: int) -> int:
    """An upper bound on the steps to prefill `tokens` tokens: each decoding prompt takes one token of a
    step.
    """
    return 2 * math.ceil(tokens / max_num_batched_tokens)


def _batch(parts: Sequence[str]) -> Batch:
    requests: list[Request] = []
    for part in parts:
        requests += _requests(part)
        if len(requests) > MOST_REQUESTS:
            raise BatchError(f"{len(requests)} prompts; must be at most {MOST_REQUESTS}")
    return tuple(sorted(requests, key=lambda request: request.length))


def _lines(path: str) -> list[str]:
    """The parts in a file."""
    try:
        lines = files.read_text(Path(path), MOST_FILE_BYTES).splitlines()
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise BatchError(
            f"neither lengths, e.g. 4x1024 or 1x4096,8x512@4, nor a file of them ({why})"
        ) from None
    parts = {number: part for number, line in enumerate(lines, 1) if (part := line.partition("#")[0].strip())}
    for number, part in parts.items():
        if not _PART.fullmatch(part):
            raise BatchError(f"line {number}: not a length, e.g. 512, 4x1024 or 512@4")
    if not parts:
        raise BatchError("holds no length; write one per line, e.g. 512 or 4x1024")
    return [*parts.values()]


def _requests(part: str) -> list[Request]:
    match = _PART.fullmatch(part)
    if match is None:
        raise BatchError(f"{files.shorten(part, 40)!r}: not a length, e.g. 512, 4x1024 or 512@4")
    count, length = int(match["count"] or 1), int(match["length"])
    if not 1 <= length <= LONGEST:
        raise BatchError(f"{part}: {LENGTH_LIMIT}")
    if not 1 <= count <= MOST_REQUESTS:
        raise BatchError(f"{part}: must be 1..{MOST_REQUESTS} prompts")
    if match["segments"] and not 1 <= int(match["segments"]) <= length:
        raise BatchError(f"{part}: must be split into 1..{length} segments, of at least one block each")
    return [Request(length, int(match["segments"]) if match["segments"] else None)] * count
