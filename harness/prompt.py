"""The prompts of a run, with the exact number of token ids. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from harness.models import ModelSource
from harness.models.shape import Shape
from harness.shipped import configs
from harness.units import pluralise

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PASSAGE = configs("prompts", "passage.txt")
STRIDE = 997  # tokens between the starts of two prompts in the passage; a prime


class PromptError(ValueError):
    """A prompt that cannot be made as requested: one line with the value, the limit and the way out."""


def check(source: ModelSource, prompt_file: Path | None) -> None:
    """Raise PromptError if the file is missing or the model has no tokenizer for it."""
    if prompt_file is None:
        return
    if not prompt_file.is_file():
        raise PromptError(f"--prompt-file {prompt_file}: no such file")
    if not source.has_tokenizer:
        raise PromptError(
            f"--prompt-file {prompt_file}: {source.name} has no tokenizer.json; choose another --model, "
            "e.g. smollm2-135m, or leave --prompt-file out"
        )


def token_ids(
    source: ModelSource, lengths: Sequence[int], prompt_file: Path | None, seed: int
) -> tuple[list[list[int]], str]:
    """The token ids of prompts of these lengths, and a description of their source.

    They come from `prompt_file`, one prompt after the other; else from a bundled passage, repeated as needed
    and started at a different place for each prompt; or, for a model without a tokenizer, from a seeded
    generator.

    Args:
        source: materialised, if it has a tokenizer.

    Raises:
        PromptError: as `check` does, or the file is not UTF-8 text or has fewer tokens than all prompts.
    """
    check(source, prompt_file)
    if not source.has_tokenizer:
        ids = random_ids(source, sum(lengths), seed)
        return _cut(ids, lengths), f"random token ids, seed {seed} (no tokenizer)"
    tokenizer = _load(source)
    if prompt_file is not None:
        return _from_file(tokenizer, prompt_file, lengths)
    return _from_passage(tokenizer, lengths)


def random_ids(source: Shape, length: int, seed: int) -> list[int]:
    """Uniform ids from the vocabulary, without the special tokens that its config.json names."""
    import numpy as np

    ordinary = np.ones(source.vocab_size, dtype=bool)
    ordinary[[i for i in source.special_ids if 0 <= i < source.vocab_size]] = False
    ids: list[int] = np.random.default_rng(seed).choice(np.flatnonzero(ordinary), length).tolist()
    return ids


def decode(source: ModelSource, ids: Iterable[int]) -> str:
    """The text of token ids; the source is materialised and has a tokenizer."""
    text: str = _load(source).decode(list(ids), skip_special_tokens=False)
    return text


def _load(source: ModelSource) -> Tokenizer:
    from tokenizers import Tokenizer

    if source.tokenizer is None:
        raise RuntimeError(f"{source.name} must be materialised before its tokenizer is used")
    try:
        tokenizer = Tokenizer.from_file(str(source.tokenizer))
    except Exception as error:  # the library raises nothing more specific
        raise PromptError(f"{source.tokenizer}: not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _from_file(
    tokenizer: Tokenizer, prompt_file: Path, lengths: Sequence[int]
) -> tuple[list[list[int]], str]:
    try:
        text = prompt_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"--prompt-file {prompt_file}: cannot be read as UTF-8 text: {error}") from error
    ids: list[int] = tokenizer.encode(text).ids
    wanted = sum(lengths)
    if len(ids) < wanted:
        asked = f"--length {wanted}" if len(lengths) == 1 else f"the {wanted} of --batch"
        raise PromptError(
            f"--prompt-file {prompt_file}: has {pluralise(len(ids), 'token')}, fewer than {asked}; "
            "use a longer text or shorter prompts"
        )
    return _cut(ids, lengths), f"the first {wanted} of {pluralise(len(ids), 'token')} of {prompt_file}"


def _from_passage(tokenizer: Tokenizer, lengths: Sequence[int]) -> tuple[list[list[int]], str]:
    passage = PASSAGE.read_text(encoding="utf-8")
    once = len(tokenizer.encode(passage).ids)
    starts = [STRIDE * n % once for n in range(len(lengths))]
    wanted = max(start + length for start, length in zip(starts, lengths, strict=True))
    times = -(-wanted // once)
    ids: list[int] = tokenizer.encode(passage * times).ids
    if len(ids) < wanted:  # special tokens were counted once per copy, or tokens merged across the seams
        times += 1 + times // 100
        ids = tokenizer.encode(passage * times).ids
    repeated = f", repeated {times} times" if times > 1 else ""
    elsewhere = ", each prompt from a different place in it" if len(lengths) > 1 else ""
    prompts = [ids[start : start + length] for start, length in zip(starts, lengths, strict=True)]
    return prompts, f"bundled passage of {once} tokens{repeated}{elsewhere}"


def _cut(ids: list[int], lengths: Sequence[int]) -> list[list[int]]:
    """One prompt after the other."""
    ends = list(accumulate(lengths))
    return [ids[end - length : end] for end, length in zip(ends, lengths, strict=True)]
