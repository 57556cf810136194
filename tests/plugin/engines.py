"""Engines with and without the plugin, and what the tests ask of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from harness.engine.serving import EngineSetup, Serving, serving
from harness.plugin import steps

VOCABULARY = 256
ROOM = 256  # of a request's tokens


def prompt(length: int, first: int = 0) -> list[int]:
    return [(7 * n + n * n + first) % VOCABULARY for n in range(length)]


MIXED = [prompt(length, length) for length in (1, 2, 31, 32, 33, 100, 150)]
ONE_TOKEN = [prompt(1, first) for first in (3, 5, 8)]


def save_tokenizer(path: Path) -> None:
    """One word for each token; pooling models do not start without a tokenizer."""
    words = Tokenizer(WordLevel({f"w{n}": n for n in range(VOCABULARY)}, unk_token="w0"))
    words.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", eos_token="w0").save_pretrained(path)


def engine_setup(model: Path, mode: str | None, **arguments: Any) -> EngineSetup:
    """What a small engine is started with."""
    small: dict[str, Any] = {
        "model": str(model), "enforce_eager": True, "skip_tokenizer_init": True, "max_model_len": ROOM,
        "max_num_batched_tokens": 2 * ROOM, "max_num_seqs": 8, "enable_prefix_caching": False,
        "gpu_memory_utilization": 0.2,
    }  # fmt: skip
    return EngineSetup(mode, small | arguments, None, 0)


@contextmanager
def engine(model: Path, mode: str | None, **arguments: Any) -> Iterator[Serving]:
    """A small engine in this process."""
    with torch.inference_mode(), serving(engine_setup(model, mode, **arguments)) as served:
        yield served


class Counted:
    """An engine behind a child process, and which of its steps needed no cache."""

    def __init__(self, served: Serving) -> None:
        self.served = served
        self.facts, self.answers, self.written = served.facts, served.answers, served.written

    def continued(self, output_len: int) -> tuple[list[list[int]], list[bool]]:
        """See `continue_beside` and `counting_steps`."""
        with counting_steps() as seen:
            return continue_beside(self.served, output_len), seen


@contextmanager
def counted(setup: EngineSetup) -> Iterator[Counted]:
    """For `Child`: start an engine and yield it."""
    with serving(setup) as served:
        yield Counted(served)


def backends(served: Serving) -> set[str]:
    """The names of the classes of an engine's backends."""
    return set(served.llm.collective_rpc(_backend_classes)[0])


def _backend_classes(worker: Any) -> list[str]:
    layers = worker.vllm_config.compilation_config.static_forward_context.values()
    return [layer.attn_backend.__name__ for layer in layers if "attn_backend" in vars(layer)]


def continue_beside(served: Serving, output_len: int) -> list[list[int]]:
    """Tokens of three requests: one begins alone and goes on while two others, of one token each, come in."""
    from vllm import SamplingParams

    llm = served.llm.llm_engine
    tokens: dict[str, list[int]] = {}

    def add(name: str, ids: Sequence[int], count: int) -> None:
        params = SamplingParams(max_tokens=count, temperature=0.0, ignore_eos=True, detokenize=False)
        llm.add_request(name, {"prompt_token_ids": list(ids)}, params)

    def step() -> None:
        for output in llm.step():
            tokens[output.request_id] = list(output.outputs[0].token_ids)

    add("long", MIXED[5], output_len)
    step()
    add("short", MIXED[6], 1)
    add("single", MIXED[0], 1)
    while llm.has_unfinished_requests():
        step()
    return [tokens[name] for name in ("long", "short", "single")]


@contextmanager
def counting_steps() -> Iterator[list[bool]]:
    """Which of the steps inside the block needed no cache, as the plugin found."""
    seen: list[bool] = []
    found = steps.needs_no_cache

    def noting(scheduler_output: Any) -> bool:
        seen.append(found(scheduler_output))
        return seen[-1]

    steps.needs_no_cache = noting
    try:
        yield seen
    finally:
        steps.needs_no_cache = found
