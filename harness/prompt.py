"""The prompts of a run, with the exact number of token ids. Imports nothing heavy."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from harness import files
from harness.models import ModelSource, mistral_format
from harness.models.shape import Shape
from harness.shipped import configs
from harness.units import first_line, pluralise
from harness.workloads import PAIRS, TRACES, Work, WorkError, is_records, parse_work
from harness.workloads.tokens import token_ids as workload_ids

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
            f"--prompt-file {prompt_file}: {source.name} has no tokenizer; choose another --model, "
            "e.g. smollm2-135m, or leave --prompt-file out"
        )


def token_ids(
    source: ModelSource, lengths: Sequence[int], prompt_file: Path | None, seed: int
) -> tuple[list[list[int]], str]:
    """The token ids of prompts of these lengths, and a description of their source.

    They come from `prompt_file`: of prose one prompt after the other; of prompts as JSON the beginnings of as
    many that are long enough. Else from a bundled passage, repeated as needed and started at a different
    place for each prompt; or, for a model without a tokenizer that can be used, from a seeded generator.

    Args:
        source: materialised, if it has a tokenizer.

    Raises:
        PromptError: as `check` does; tokenizer.json is damaged; or the file is not UTF-8 text, holds records
            that are no prompts, needs a tokenizer that cannot be used, or has too few tokens.
    """
    check(source, prompt_file)
    problem = "no tokenizer"
    if source.has_tokenizer:
        try:
            tokenizer = _load(source)
        except _Unusable as error:
            if prompt_file is not None:
                raise
            problem = str(error)
        else:
            if prompt_file is not None:
                records = _read_records(prompt_file)
                if records is not None:
                    return _from_records(source, tokenizer, records, prompt_file, lengths)
                return _from_file(tokenizer, prompt_file, lengths)
            return _from_passage(tokenizer, lengths)
    ids = random_ids(source, sum(lengths), seed)
    return _cut(ids, lengths), f"random token ids, seed {seed} ({problem})"


def random_ids(source: Shape, length: int, seed: int) -> list[int]:
    """Uniform ids from the vocabulary, without the special tokens that its config.json names."""
    import numpy as np

    ordinary = np.ones(source.vocab_size, dtype=bool)
    ordinary[[i for i in source.special_ids if 0 <= i < source.vocab_size]] = False
    ids: list[int] = np.random.default_rng(seed).choice(np.flatnonzero(ordinary), length).tolist()
    return ids


def decode(source: ModelSource, ids: Sequence[int]) -> str | None:
    """The text of token ids, or None without a tokenizer that can be used; the source is materialised."""
    try:
        return _load(source).decode(ids) if source.has_tokenizer else None
    except _Unusable:
        return None


def encoder(source: ModelSource) -> Callable[[str], list[int]] | None:
    """What gives a text's token ids, with those that start a prompt; None without a tokenizer that can be
    used. The source is materialised.
    """
    try:
        return _load(source).encode if source.has_tokenizer else None
    except _Unusable:
        return None


def pair_encoder(source: ModelSource) -> Callable[[str, str], list[int]] | None:
    """What gives the token ids of two texts joined, as a cross-encoder reads them; None without a
    tokenizer.json. The source is materialised.
    """
    if source.tokenizer is None or source.tokenizer.name != "tokenizer.json":
        return None
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(source.tokenizer))
    return lambda one, two: list(tokenizer.encode(one, two).ids)


class _Unusable(PromptError):
    """A tokenizer that is there, but needs what is missing here."""


@dataclass(frozen=True)
class _Tokenizer:
    """A tokenizer of either library."""

    encode: Callable[[str], list[int]]  # with the special tokens that start a prompt
    decode: Callable[[Sequence[int]], str]


def _load(source: ModelSource) -> _Tokenizer:
    if source.tokenizer is None:
        raise RuntimeError(f"{source.name} must be materialised before its tokenizer is used")
    if source.in_mistral_format:
        return _load_mistrals(source.tokenizer)
    if source.tokenizer.name != "tokenizer.json":
        return _load_with_transformers(source.tokenizer, source.trust_remote_code)
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(source.tokenizer))
    except Exception as error:  # the library raises nothing more specific
        raise PromptError(f"{source.tokenizer}: not a tokenizer: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return _Tokenizer(
        encode=lambda text: list(tokenizer.encode(text).ids),
        decode=lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False)),
    )


def _load_with_transformers(path: Path, trust_remote_code: bool) -> _Tokenizer:
    """A sentencepiece or tekken tokenizer; takes seconds, as transformers imports torch."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            path.parent, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:  # a package that is missing, code that is not trusted, a damaged file
        raise _Unusable(f"{path}: transformers cannot load it: {first_line(error)}") from error
    return _Tokenizer(
        encode=lambda text: list(tokenizer(text, verbose=False)["input_ids"]),
        decode=lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=False)),
    )


def _load_mistrals(path: Path) -> _Tokenizer:
    """The tokenizer of a model in Mistral's own layout, as vLLM loads it; takes seconds."""
    try:
        tokenizer = mistral_format.load_tokenizer(path.parent)
    except Exception as error:  # a damaged file, or a vLLM that has moved it
        raise _Unusable(f"{path}: vLLM cannot load it: {first_line(error)}") from error
    return _Tokenizer(
        encode=lambda text: list(tokenizer.encode(text)),
        # With special tokens, a sentencepiece one would also show its mark for a space.
        decode=lambda ids: str(tokenizer.decode(list(ids), skip_special_tokens=True)),
    )


def _from_file(
    tokenizer: _Tokenizer, prompt_file: Path, lengths: Sequence[int]
) -> tuple[list[list[int]], str]:
    try:
        text = files.read_text(prompt_file)
    except (OSError, ValueError) as error:
        raise PromptError(f"--prompt-file {prompt_file}: cannot be read as UTF-8 text: {error}") from error
    ids = tokenizer.encode(text)
    wanted = sum(lengths)
    if len(ids) < wanted:
        asked = f"--length {wanted}" if len(lengths) == 1 else f"the {wanted} of --batch"
        raise PromptError(
            f"--prompt-file {prompt_file}: has {pluralise(len(ids), 'token')}, fewer than {asked}; "
            "use a longer text or shorter prompts"
        )
    return _cut(ids, lengths), f"the first {wanted} of {pluralise(len(ids), 'token')} of {prompt_file}"


def _read_records(prompt_file: Path) -> Work | None:
    """The prompts of a file of JSON; None of prose."""
    try:
        content = files.read_bytes(prompt_file)
        if not is_records(content):
            return None
        work = parse_work(content)
    except (OSError, ValueError) as error:
        raise PromptError(f"--prompt-file {prompt_file}: cannot be read: {error}") from error
    if work.format in TRACES or work.format == PAIRS:
        raise PromptError(
            f"--prompt-file {prompt_file}: holds requests ({work.format}) and no text to cut --length from; "
            "give it to python -m harness workload --prompts"
        )
    return work


def _from_records(
    source: ModelSource, tokenizer: _Tokenizer, work: Work, prompt_file: Path, lengths: Sequence[int]
) -> tuple[list[list[int]], str]:
    """The beginnings of the first records that are long enough: each makes the longest prompt that it can."""
    waiting = sorted(range(len(lengths)), key=lambda index: (lengths[index], -index))
    prompts: dict[int, list[int]] = {}
    longest = 0
    try:
        for ids in workload_ids(work, tokenizer.encode, source.vocab_size, 0):
            longest = max(longest, len(ids))
            able = bisect_right(waiting, len(ids), key=lambda index: lengths[index])
            if able:
                index = waiting.pop(able - 1)
                prompts[index] = ids[: lengths[index]]
            if not waiting:
                break
    except WorkError as error:
        raise PromptError(f"--prompt-file {prompt_file}: {error}") from error
    if waiting:
        wanted = lengths[waiting[-1]]
        raise PromptError(
            f"--prompt-file {prompt_file}: none of its {pluralise(len(work.requests), 'prompt')} is left "
            f"with {wanted} tokens, the longest has {longest}; use longer prompts or a shorter --length"
        )
    wrong = f", {pluralise(len(work.skipped), 'wrong line')} left out" if work.skipped else ""
    beginnings = (
        f"the beginning of {len(lengths)} of {pluralise(len(work.requests), 'prompt')} of {prompt_file}"
    )
    return [prompts[index] for index in range(len(lengths))], beginnings + wrong


def _from_passage(tokenizer: _Tokenizer, lengths: Sequence[int]) -> tuple[list[list[int]], str]:
    passage = PASSAGE.read_text(encoding="utf-8")
    once = len(tokenizer.encode(passage))
    starts = [STRIDE * n % once for n in range(len(lengths))]
    wanted = max(start + length for start, length in zip(starts, lengths, strict=True))
    times = -(-wanted // once)
    ids = tokenizer.encode(passage * times)
    if len(ids) < wanted:  # special tokens were counted once per copy, or tokens merged across the seams
        times += 1 + times // 100
        ids = tokenizer.encode(passage * times)
    repeated = f", repeated {times} times" if times > 1 else ""
    elsewhere = ", each prompt from a different place in it" if len(lengths) > 1 else ""
    prompts = [ids[start : start + length] for start, length in zip(starts, lengths, strict=True)]
    return prompts, f"bundled passage of {once} tokens{repeated}{elsewhere}"


def _cut(ids: list[int], lengths: Sequence[int]) -> list[list[int]]:
    """One prompt after the other."""
    ends = list(accumulate(lengths))
    return [ids[end - length : end] for end, length in zip(ends, lengths, strict=True)]
