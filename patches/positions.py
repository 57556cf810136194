"""Longer prompts than trained for, for models with learned positions (gpt2, OPT).

The position table is repeated up to the requested length: timings are those of a longer model, predictions
past the trained length are meaningless.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

from patches import PatchError, Symbol

# The class that loads the table, the table's name, and how many of its first rows are not positions.
_TABLES = (
    (Symbol("vllm.model_executor.models.gpt2:GPT2Model.load_weights", ("weights",)), "wpe.weight", 0),
    (Symbol("vllm.model_executor.models.opt:OPTForCausalLM.load_weights", ("weights",)),
     "embed_positions.weight", 2),
)  # fmt: skip
FEATURE = "prompts longer than learned positions"
NEEDS = tuple(symbol for symbol, _, _ in _TABLES)

# In the environment of worker processes: the number of rows of extended position tables.
EXTENDED_POSITIONS = "PREFILL_HARNESS_EXTENDED_POSITIONS"
_in_worker = ExitStack()  # never closed: a worker loads one model and ends


@contextmanager
def extending_in_process(num_positions: int) -> Iterator[None]:
    """Extend position tables that vLLM loads inside the block to `num_positions` rows."""
    with ExitStack() as stack:
        for symbol, suffix, offset in _TABLES:
            module, _, name = symbol.path.partition(":")
            loader = _repeating(symbol.resolve(), suffix, offset, num_positions)
            stack.enter_context(mock.patch(f"{module}.{name}", loader))
        yield


@contextmanager
def extending(num_positions: int) -> Iterator[None]:
    """Extend position tables in this process inside the block, and in workers started there for their
    lifetime.
    """
    os.environ[EXTENDED_POSITIONS] = f"{num_positions} by {os.getpid()}"
    try:
        with extending_in_process(num_positions):
            yield
    finally:
        del os.environ[EXTENDED_POSITIONS]


def extend_in_worker() -> None:
    """Extend position tables from now on if this process was started inside `extending`."""
    rows, _, process = os.environ.get(EXTENDED_POSITIONS, "").partition(" by ")
    if rows and process != str(
        os.getpid()
    ):  # else this is the only rank, in the process of `extending`, which undoes it
        _in_worker.enter_context(extending_in_process(int(rows)))


def _repeating(
    load_weights: Callable[..., Any], suffix: str, offset: int, num_positions: int
) -> Callable[..., Any]:
    def loader(self: Any, weights: Iterable[tuple[str, torch.Tensor]], *args: Any, **kwargs: Any) -> Any:
        longer = (
            (name, repeat_rows(table, num_positions, offset) if name.endswith(suffix) else table)
            for name, table in weights
        )
        return load_weights(self, longer, *args, **kwargs)

    return loader


def repeat_rows(table: torch.Tensor, num_positions: int, offset: int = 0) -> torch.Tensor:
    """Repeat the position rows of `table` ([offset + trained positions, hidden]) to `num_positions`.

    Raises:
        PatchError: the table has no position rows to repeat.
    """
    head, trained = table[:offset], table[offset:]
    if not len(trained):
        raise PatchError(f"a position table of shape {tuple(table.shape)} has no rows to repeat")
    times = -(-num_positions // len(trained))
    return torch.cat([head, trained.repeat(times, 1)[: max(num_positions, len(trained))]])
