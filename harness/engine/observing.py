"""What a rank observes while a prefill runs: attention calls to capture, or to compare with captured ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from harness import layout
from harness.calls.capture import AttentionCall, CaptureError, from_engine, trim_table
from harness.units import pluralise
from patches.attention import AttentionHook

Ids = Sequence[Sequence[int]]  # of each request


@dataclass
class Captured:
    """A rank's calls of one prefill by layer index, and why layers are missing."""

    calls: dict[int, AttentionCall] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)


@dataclass
class Checked:
    """A rank's part of a prefill under another layout: each layer's block table, and what differs."""

    tables: dict[int, torch.Tensor] = field(default_factory=dict)  # [requests, blocks] int32
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """The blocks that requests were to get."""

    block_ids: Ids
    block_size: int  # tokens

    def in_blocks_of(self, size: int) -> Ids:
        """The same blocks cut into smaller ones of `size` tokens, as a kernel may see them."""
        parts = self.block_size // size
        return [[parts * n + part for n in ids for part in range(parts)] for ids in self.block_ids]


@contextmanager
def capturing(
    engine_layers: Mapping[str, Any],
    hook: AttentionHook,
    layers: Sequence[int] | None,
    reasons: Mapping[str, str],
) -> Iterator[Captured]:
    """Capture the calls of `layers` (indices of `engine_layers`; None: all) in the prefill inside the
    block.

    Args:
        reasons: why some layers' calls cannot be captured, by name.
    """
    numbers = {name: number for number, name in enumerate(engine_layers)}
    calls: dict[int, AttentionCall] = {}
    wanted = numbers.values() if layers is None else layers
    skipped = {numbers[name]: why for name, why in reasons.items() if numbers[name] in wanted}
    captured = Captured(skipped=skipped)

    def observe(layer: Any, *arguments: Any) -> None:
        number = numbers[layer.layer_name]
        if number not in wanted or number in skipped:
            return
        query, key, value, kv_cache, metadata, output = arguments
        try:
            calls[number] = from_engine(number, layer, query, key, value, kv_cache, metadata, output)
        except CaptureError as error:
            captured.skipped[number] = str(error)

    with hook.observing(observe):
        yield captured
    captured.calls |= dict(sorted(calls.items()))


@contextmanager
def checking(
    engine_layers: Mapping[str, Any], hook: AttentionHook, base: Captured, asked: Layout
) -> Iterator[Checked]:
    """Record the block tables of the prefill inside the block, and how it differs from `base`."""
    numbers = {name: number for number, name in enumerate(engine_layers)}
    checked = Checked()

    def observe(layer: Any, *arguments: Any) -> None:
        call = base.calls.get(numbers[layer.layer_name])
        if call is None:
            return
        *_, metadata, output = arguments
        checked.tables[call.layer], _ = trim_table(metadata, call.block_size)
        if not torch.equal(output[: call.num_tokens].reshape(call.output.shape), call.output):
            checked.problems.append(f"layer {call.layer}: the output is not bit for bit that at spread_k = 1")

    with hook.observing(observe):
        yield checked
    for number, table in checked.tables.items():
        call = base.calls[number]
        if problem := _wrong_row(call, call.block_ids(table), asked):
            checked.problems.append(f"layer {number}: {problem}")
            break


def _wrong_row(call: AttentionCall, got: Ids, asked: Layout) -> str | None:
    """A line about the first request whose blocks are not the requested ones."""
    wanted_ids = asked.in_blocks_of(call.block_size)
    for request, (ids, wanted) in enumerate(zip(got, wanted_ids, strict=True)):
        if list(ids) != list(wanted)[: len(ids)]:
            return (
                f"request {request} has {pluralise(layout.spread_k(ids), 'segment')} in the engine's block "
                f"table instead of {layout.spread_k(wanted)}"
            )
    return None
