"""Real prefills on chosen blocks: one is captured, the others are held against it.

Whoever runs the prefill (`capture`, `check`) tells every rank to look; a rank looks in the process that has
its layers (`capturing`, `checking`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from harness import layout
from harness.calls.capture import AttentionCall, CaptureError, from_engine, trimmed_table
from harness.units import counted
from patches.attention import AttentionTap

if TYPE_CHECKING:
    from harness.engine.prefill_engine import Prefill, PrefillEngine

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


def capture(
    engine: PrefillEngine, prompts: Ids, block_ids: Ids, layers: Sequence[int] | None
) -> tuple[Prefill, Captured]:
    """Prefill `prompts`, each on its `block_ids`; every rank keeps the calls of `layers` (None: all).

    The answer has the first rank's calls, as outlines (see capture.outline): the other ranks' are alike.
    """
    with engine.ranks.during("capturing", layers) as captured:
        prefill = engine.prefill(prompts, block_ids)
    return prefill, captured[0]


def check(engine: PrefillEngine, prompts: Ids, block_ids: Ids, base: Prefill) -> list[str]:
    """Prefill on `block_ids`; anything that is not as in the captured prefill, in any rank.

    The first tokens and every captured layer's output must be equal, bit for bit: the kernel is the
    same, only the blocks differ. Each row of the block tables must be the one that was asked for.
    """
    with engine.ranks.during("checking", [list(ids) for ids in block_ids]) as found:
        prefill = engine.prefill(prompts, block_ids)
    problems = [problem for of_rank in found for problem in of_rank]
    if prefill.first_tokens != base.first_tokens:
        problems.append(f"first tokens {prefill.first_tokens}, at spread_k = 1 they are {base.first_tokens}")
    return problems


@contextmanager
def capturing(
    engine_layers: Mapping[str, Any], tap: AttentionTap, layers: Sequence[int] | None
) -> Iterator[Captured]:
    """Keep the calls of `layers` (indices of `engine_layers`; None: all) of the prefill inside the block."""
    numbers = {name: number for number, name in enumerate(engine_layers)}
    calls: dict[int, AttentionCall] = {}
    skipped = {
        numbers[name]: reason
        for name, reason in tap.out_of_scope.items()
        if layers is None or numbers[name] in layers
    }
    captured = Captured(skipped=skipped)

    def observe(layer: Any, *arguments: Any) -> None:
        number = numbers[layer.layer_name]
        if layers is not None and number not in layers:
            return
        query, key, value, kv_cache, metadata, output = arguments
        try:
            calls[number] = from_engine(number, layer, query, key, value, kv_cache, metadata, output)
        except CaptureError as error:
            captured.skipped[number] = str(error)

    with tap.observing(observe):
        yield captured
    captured.calls |= dict(sorted(calls.items()))


@contextmanager
def checking(
    engine_layers: Mapping[str, Any], tap: AttentionTap, base: Captured, block_ids: Ids
) -> Iterator[Checked]:
    """Note the block tables of the prefill inside the block, and what is not as in `base`."""
    numbers = {name: number for number, name in enumerate(engine_layers)}
    checked = Checked()

    def observe(layer: Any, *arguments: Any) -> None:
        call = base.calls.get(numbers[layer.layer_name])
        if call is None:
            return
        *_, metadata, output = arguments
        checked.tables[call.layer], _ = trimmed_table(metadata, call.block_size)
        if not torch.equal(output[: call.num_tokens].reshape(call.output.shape), call.output):
            checked.problems.append(f"layer {call.layer}: the output is not bit for bit that at spread_k = 1")

    with tap.observing(observe):
        yield checked
    for number, table in checked.tables.items():
        if problem := _wrong_row(base.calls[number].block_ids(table), block_ids):
            checked.problems.append(f"layer {number}: {problem}")
            break


def _wrong_row(got: Ids, asked: Ids) -> str | None:
    """The first request whose blocks are not those that were asked for."""
    for request, (ids, wanted) in enumerate(zip(got, asked, strict=True)):
        if list(ids) != list(wanted):
            return (
                f"request {request} has {counted(layout.spread_k(ids), 'run')} in the engine's block table, "
                f"{layout.spread_k(wanted)} asked for"
            )
    return None
