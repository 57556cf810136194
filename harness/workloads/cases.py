"""Cases as text, "8x512" or "2q2k": prompts and their lengths, in the grammar of vLLM's own benches."""

from __future__ import annotations

import re

from harness import files
from harness.batch import LONGEST, MOST_REQUESTS
from harness.workloads.work import WorkError

_SIZE = r"\d{1,9}k?"  # k: times 1024
_PART = re.compile(
    rf"(?P<count>\d{{1,9}})x(?P<times>{_SIZE})|(?P<many>\d{{1,9}})?q(?P<query>{_SIZE})(?:s(?P<whole>{_SIZE}))?",
    re.ASCII,
)


def case_lengths(text: str) -> tuple[int, ...]:
    """The lengths in tokens of a case's prompts, in its order.

    "8x512": eight of 512. "2q2k_q512": two of 2048 and one of 512, as vLLM's
    benchmarks/attention_benchmarks/batch_spec.py has it; "q2ks2k" is "q2k".

    Raises:
        WorkError: it is no case; is not all prefill, as "q1s1k"; or is beyond the limits of a batch.
    """
    lengths: list[int] = []
    for part in text.split("_"):
        lengths += _lengths(part.strip())
        if len(lengths) > MOST_REQUESTS:
            raise WorkError(f"{files.shorten(text, 40)}: must be at most {MOST_REQUESTS} prompts")
    return tuple(lengths)


def _lengths(part: str) -> list[int]:
    match = _PART.fullmatch(part)
    if match is None:
        raise WorkError(f"{files.shorten(part, 40)!r}: not a case, e.g. 8x512 or 2q2k")
    count = int(match["count"] or match["many"] or 1)
    length = _tokens(match["times"] or match["query"])
    if match["whole"] and _tokens(match["whole"]) != length:
        raise WorkError(
            f"{part}: its {length} tokens follow a cached context; only whole prompts are prefilled here, "
            f"e.g. {match['many'] or ''}q{match['query']}"
        )
    if not 1 <= length <= LONGEST:
        raise WorkError(f"{part}: a prompt must have 1..{LONGEST} tokens")
    if not 1 <= count <= MOST_REQUESTS:
        raise WorkError(f"{part}: must be 1..{MOST_REQUESTS} prompts")
    return [length] * count


def _tokens(size: str) -> int:
    return int(size.removesuffix("k")) * (1024 if size.endswith("k") else 1)
