"""Prompts of exactly the asked length, from a file, the bundled passage or a generator."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer

from harness import prompt
from harness.models import ModelSource, inspect
from harness.models.shape import read_shape
from harness.prompt import PASSAGE, PromptError, random_ids, token_ids
from harness.units import pluralise

CONFIG = {
    "model_type": "llama", "vocab_size": 400, "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "bos_token_id": 0, "eos_token_id": [1, 2],
}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    """A model directory whose tokenizer adds a first token and would cut texts at 32 tokens."""
    directory = tmp_path_factory.mktemp("model")
    (directory / "config.json").write_text(json.dumps(CONFIG))
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=400, special_tokens=["<s>"], initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([PASSAGE.read_text()], trainer)
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.enable_truncation(32)
    tokenizer.save(str(directory / "tokenizer.json"))
    return inspect(str(directory), length=8, load_format="dummy")


@pytest.fixture
def without_tokenizer(source: ModelSource) -> ModelSource:
    return replace(source, tokenizer=None, has_tokenizer=False)


def decode(source: ModelSource, ids: list[int]) -> str:
    return str(Tokenizer.from_file(str(source.tokenizer)).decode(ids))


def test_the_passage_is_long_enough_to_read() -> None:
    assert len(PASSAGE.read_text().split()) > 1000


@settings(max_examples=20)
@given(length=st.integers(1, 20_000))
def test_passage_is_exactly_as_long_as_asked(source: ModelSource, length: int) -> None:
    (ids,), description = token_ids(source, [length], None, seed=0)
    assert len(ids) == length
    assert ids[0] == 0
    passage = PASSAGE.read_text()
    text = decode(source, ids)
    assert (passage * (1 + len(text) // len(passage))).startswith(text)
    assert ("repeated" in description) == (len(text) > len(passage))


@settings(max_examples=10)
@given(lengths=st.lists(st.integers(1, 3000), min_size=2, max_size=6))
def test_each_prompt_of_a_batch_is_another_piece_of_the_passage(
    source: ModelSource, lengths: list[int]
) -> None:
    prompts, description = token_ids(source, lengths, None, seed=0)
    assert [len(ids) for ids in prompts] == lengths
    assert "a different place" in description
    assert prompts[0] == token_ids(source, lengths[:1], None, seed=0)[0][0]
    starts = {tuple(ids[:20]) for ids in prompts if len(ids) >= 20}
    assert len(starts) == sum(length >= 20 for length in lengths)


def test_prompts_of_a_batch_without_a_tokenizer_or_from_a_file(
    source: ModelSource, without_tokenizer: ModelSource, tmp_path: Path
) -> None:
    prompts, _ = token_ids(without_tokenizer, [50, 1, 50], None, seed=3)
    assert [len(ids) for ids in prompts] == [50, 1, 50]
    assert prompts[0] != prompts[2]
    file = tmp_path / "prompt.txt"
    file.write_text("some words of a text " * 10)
    (whole,), _ = token_ids(source, [40], file, seed=0)
    assert token_ids(source, [30, 10], file, seed=0)[0] == [whole[:30], whole[30:]]
    with pytest.raises(PromptError, match=r"fewer than the 2000 of --batch; use a longer text"):
        token_ids(source, [1000, 1000], file, seed=0)


def test_prompt_file(source: ModelSource, tmp_path: Path) -> None:
    file = tmp_path / "prompt.txt"
    file.write_text("memory " * 50)
    (everything,), _ = token_ids(source, [40], file, seed=0)
    (ids,), description = token_ids(source, [5], file, seed=0)
    assert ids == everything[:5]
    assert decode(source, everything).startswith("memory memory ")
    assert description.startswith("the first 5 of ")


@settings(max_examples=20)
@given(
    words=st.lists(st.integers(1, 60), min_size=1, max_size=6),
    lengths=st.lists(st.integers(1, 60), min_size=1),
)
def test_prompts_as_json_are_each_the_beginning_of_one_record(
    source: ModelSource, words: list[int], lengths: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    texts = [f"{index} {'memory ' * count}" for index, count in enumerate(words)]
    file.write_text("".join(json.dumps({"prompt": text, "output_tokens": 1}) + "\n" for text in texts))
    tokenizer = Tokenizer.from_file(str(source.tokenizer))
    tokenizer.no_truncation()
    records = [tokenizer.encode(text).ids for text in texts]
    sizes = sorted(map(len, records), reverse=True)
    wanted = sorted(lengths, reverse=True)
    if len(wanted) > len(sizes) or any(want > size for want, size in zip(wanted, sizes, strict=False)):
        with pytest.raises(PromptError, match=r"none of its \d prompts? is left with \d+ tokens"):
            token_ids(source, lengths, file, seed=0)
        return
    prompts, description = token_ids(source, lengths, file, seed=0)
    assert [len(ids) for ids in prompts] == lengths
    assert description == f"the beginning of {len(lengths)} of {pluralise(len(words), 'prompt')} of {file}"
    assert all(any(record[: len(ids)] == ids for record in records) for ids in prompts)
    told_apart = [tuple(ids[:2]) for ids in prompts if len(ids) > 1]
    assert len({*told_apart}) == len(told_apart)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"\xff\xfe\xff", "cannot be read as UTF-8"),
        (b"memory", r"has \d+ tokens, fewer than --length 100; use a longer text"),
        (b'{"prompt": "memory"}', r"none of its 1 prompt is left with 100 tokens, the longest has \d+; use"),
        (b'{"prompt": 3}', "cannot be read: line 1: prompt: must be a text"),
        (
            b'{"input_length": 3}',
            r"holds requests \(Mooncake trace\) .* workload --prompts",
        ),
        (b"TIMESTAMP,ContextTokens\n1,300\n", r"holds requests \(Azure trace\)"),
        (b'{"text_1": "a", "text_2": "b"}', r"holds requests \(pairs\) and no text"),
        (b"[4000]", "line 1: token id 4000: the model's go up to 399"),
    ],
)
def test_prompt_files_that_do_not_do(
    source: ModelSource, tmp_path: Path, content: bytes | None, message: str
) -> None:
    file = tmp_path / "prompt.txt"
    if content:
        file.write_bytes(content)
    with pytest.raises(PromptError, match=message):
        token_ids(source, [100], file, seed=0)


def test_a_broken_tokenizer(source: ModelSource, tmp_path: Path) -> None:
    broken = tmp_path / "tokenizer.json"
    broken.write_text("{}")
    with pytest.raises(PromptError, match="not a tokenizer"):
        token_ids(replace(source, tokenizer=broken), [1], None, seed=0)


def test_a_sentencepiece_tokenizer(tmp_path: Path) -> None:
    import sentencepiece

    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    sentencepiece.SentencePieceTrainer.train(
        input=str(PASSAGE), model_prefix=str(tmp_path / "tokenizer"), vocab_size=400, model_type="bpe",
        byte_fallback=True, minloglevel=5,
    )  # fmt: skip
    source = inspect(str(tmp_path), length=8, load_format="dummy")
    assert source.tokenizer == tmp_path / "tokenizer.model"
    (ids,), description = token_ids(source, [2000], None, seed=0)
    assert len(ids) == 2000
    assert description.startswith("bundled passage")
    assert prompt.decode(source, ids).split()[3:9] == PASSAGE.read_text().split()[3:9]
    (tmp_path / "tokenizer.model").write_bytes(b"damaged")
    (ids,), description = token_ids(source, [20], None, seed=0)
    assert len(ids) == 20
    assert "random token ids, seed 0" in description
    assert "transformers cannot load it" in description
    assert prompt.decode(source, ids) is None
    with pytest.raises(PromptError, match="transformers cannot load it"):
        token_ids(source, [20], PASSAGE, seed=0)


def test_without_tokenizer_the_seed_decides(without_tokenizer: ModelSource) -> None:
    ids, description = token_ids(without_tokenizer, [100], None, seed=3)
    assert "seed 3" in description
    assert (ids, description) == token_ids(without_tokenizer, [100], None, seed=3)
    assert ids != token_ids(without_tokenizer, [100], None, seed=4)[0]
    with pytest.raises(PromptError, match=r"has no tokenizer; .* smollm2-135m"):
        token_ids(without_tokenizer, [1], PASSAGE, seed=0)


@given(
    length=st.integers(1, 500),
    seed=st.integers(0, 2**32),
    special=st.sets(st.integers(0, 19), max_size=10),
    nested=st.booleans(),
)
def test_random_ids_are_ordinary_tokens(length: int, seed: int, special: set[int], nested: bool) -> None:
    config = CONFIG | {"vocab_size": 20, "eos_token_id": sorted(special), "pad_token_id": None}
    del config["bos_token_id"]
    ids = random_ids(read_shape({"text_config": config} if nested else config, "config"), length, seed)
    assert len(ids) == length
    assert all(type(i) is int and 0 <= i < 20 and i not in special for i in ids)
