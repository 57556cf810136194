"""Small helpers that several rooms share: bytes, plurals, spacing, error texts."""

from __future__ import annotations

MIB, GIB = 2**20, 2**30


def pluralise(number: float, noun: str) -> str:
    """A count with its noun, in the plural unless it is one: "1 token", "4096 tokens", "1.5 segments"."""
    return f"{number:.12g} {noun}" + ("" if number == 1 else "s")


# By PyTorch's names and by vLLM's.
ELEMENT_BYTES = {"bfloat16": 2, "float16": 2, "half": 2, "float32": 4, "float": 4}


def kv_bytes_per_token(num_layers: int, num_kv_heads: int, head_dim: int, element_bytes: int) -> int:
    """Bytes of K and V of a token: 2 * num_layers * num_kv_heads * head_dim * element_bytes."""
    return 2 * num_layers * num_kv_heads * head_dim * element_bytes


def pick_evenly(count: int, wanted: int) -> list[int]:
    """`wanted` evenly spaced indices from range(count), including both ends; all of them if there are
    fewer.
    """
    if wanted >= count:
        return list(range(count))
    if wanted == 1:
        return [0]
    return [round(n * (count - 1) / (wanted - 1)) for n in range(wanted)]


def first_line(error: object) -> str:
    """The first non-empty line of an error's text, or the error's type if there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)


def type_and_line(error: BaseException) -> str:
    """E.g. "ValueError: the first line of its text"."""
    return f"{type(error).__name__}: {first_line(error) if str(error).strip() else ''}"


def in_ms(us: float) -> float:
    """Microseconds in milliseconds."""
    return us / 1000
