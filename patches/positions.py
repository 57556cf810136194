"""Let models with learned positions (gpt2, OPT) take prompts longer than they were trained for.

The position table is repeated to the asked length: timings are those of a longer model, predictions
past the trained length mean nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch

from patches import PatchError, Symbol

# Who loads the table, the table's name, and how many of its first rows are not positions.
_TABLES = (
    (Symbol("vllm.model_executor.models.gpt2:GPT2Model.load_weights", ("weights",)), "wpe.weight", 0),
    (Symbol("vllm.model_executor.models.opt:OPTForCausalLM.load_weights", ("weights",)),
     "embed_positions.weight", 2),
)  # fmt: skip
NEEDS = tuple(symbol for symbol, _, _ in _TABLES)

# In the environment of worker processes: the rows that position tables are repeated to.
EXTENDED_POSITIONS = "PREFILL_HARNESS_EXTENDED_POSITIONS"
_in_worker = ExitStack()  # never closed: a worker loads one model and ends


@contextmanager
def extended(num_positions: int) -> Iterator[None]:
    """While active, position tables loaded by vLLM are repeated up to `num_positions` rows."""
    with ExitStack() as stack:
        for symbol, suffix, offset in _TABLES:
            module, _, name = symbol.path.partition(":")
            loader = _repeating(symbol.resolve(), suffix, offset, num_positions)
            stack.enter_context(mock.patch(f"{module}.{name}", loader))
        yield


@contextmanager
def extending(num_positions: int) -> Iterator[None]:
    """While active, position tables are extended in this process, and in workers that start for as long as
    they live."""
    os.environ[EXTENDED_POSITIONS] = f"{num_positions} by {os.getpid()}"
    try:
        with extended(num_positions):
            yield
    finally:
        del os.environ[EXTENDED_POSITIONS]


def extend_in_worker() -> None:
    """Extend position tables from now on, if this is a process that started inside `extending`."""
    rows, _, process = os.environ.get(EXTENDED_POSITIONS, "").partition(" by ")
    if rows and process != str(os.getpid()):  # else the only rank is where `extending` is, which ends
        _in_worker.enter_context(extended(int(rows)))


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
