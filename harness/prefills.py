"""Real prefills on chosen blocks: one is captured, the others are held against it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from harness import layout
from harness.capture import AttentionCall, CaptureError, from_engine, trimmed_table
from harness.engine import Prefill, PrefillEngine


@dataclass
class Captured:
    """A captured prefill: its calls by layer index, and why layers are missing."""

    prefill: Prefill
    calls: dict[int, AttentionCall] = field(default_factory=dict)
    skipped: dict[int, str] = field(default_factory=dict)


@dataclass
class Checked:
    """A prefill under another layout: each layer's block table, and what differs from the captured one."""

    prefill: Prefill
    tables: dict[int, torch.Tensor] = field(default_factory=dict)  # [requests, blocks] int32
    problems: list[str] = field(default_factory=list)


def capture(
    engine: PrefillEngine, token_ids: Sequence[int], block_ids: Sequence[int], layers: Sequence[int] | None
) -> Captured:
    """Prefill on `block_ids` and keep the attention calls of `layers` (None: all)."""
    numbers = {name: number for number, name in enumerate(engine.layers)}
    calls: dict[int, AttentionCall] = {}
    skipped = {
        numbers[name]: reason
        for name, reason in engine.tap.out_of_scope.items()
        if layers is None or numbers[name] in layers
    }

    def observe(layer: Any, *arguments: Any) -> None:
        number = numbers[layer.layer_name]
        if layers is not None and number not in layers:
            return
        query, key, value, kv_cache, metadata, output = arguments
        try:
            calls[number] = from_engine(number, layer, query, key, value, kv_cache, metadata, output)
        except CaptureError as error:
            skipped[number] = str(error)

    with engine.tap.observing(observe):
        prefill = engine.prefill(token_ids, block_ids)
    return Captured(prefill, dict(sorted(calls.items())), skipped)


def check(
    engine: PrefillEngine, token_ids: Sequence[int], block_ids: Sequence[int], base: Captured
) -> Checked:
    """Prefill on `block_ids`; note the block tables and anything that is not as in `base`.

    The first token and every captured layer's output must be equal, bit for bit: the kernel is the
    same, only the blocks differ. The block table must be the one that was asked for.
    """
    numbers = {name: number for number, name in enumerate(engine.layers)}
    tables: dict[int, torch.Tensor] = {}
    problems: list[str] = []

    def observe(layer: Any, *arguments: Any) -> None:
        call = base.calls.get(numbers[layer.layer_name])
        if call is None:
            return
        *_, metadata, output = arguments
        tables[call.layer], _ = trimmed_table(metadata, call.block_size)
        if not torch.equal(output[: call.num_tokens].reshape(call.output.shape), call.output):
            problems.append(f"layer {call.layer}: the output is not bit for bit that at spread_k = 1")

    with engine.tap.observing(observe):
        prefill = engine.prefill(token_ids, block_ids)
    if prefill.first_token != base.prefill.first_token:
        problems.append(
            f"first token {prefill.first_token}, at spread_k = 1 it is {base.prefill.first_token}"
        )
    asked = list(block_ids)
    for number, table in tables.items():
        got = table[0].tolist()
        if got != asked:
            problems.append(
                f"layer {number}: {layout.spread_k(got)} runs in the engine's block table, "
                f"{layout.spread_k(asked)} asked for"
            )
            break
    return Checked(prefill, tables, problems)
