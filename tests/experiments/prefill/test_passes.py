"""The order in which attention calls are replayed over spread_k."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from harness.experiments.prefill.replaying import PASSES, Replaying
from tests.attention_calls import make_call

SPREADS = [1, 2, 4, 8, 16]


def passes(
    layers: int, seed: int = 0, finished: tuple[int, int] | None = None
) -> list[tuple[int, list[int]]]:
    """The work on so many layers, by spread_k and layers; one of a resumed run may be finished."""
    call = make_call(length=16, heads=1, kv_heads=1, head_dim=4)
    calls = [replace(call, layer=n) for n in range(layers)]
    todo = {k: [(call, False) for call in calls if (k, call.layer) != finished] for k in SPREADS}
    config: Any = SimpleNamespace(config=SimpleNamespace(seed=seed))
    work = Replaying.in_passes(config, todo)
    return [(k, [call.layer for call, _ in pending]) for k, pending in work]


def test_every_call_is_replayed_once_at_every_spread_k() -> None:
    for layers in (1, 2, 3, 7, 12):
        work = passes(layers)
        assert len(work) == len(SPREADS) * min(layers, PASSES)
        pairs = [(k, layer) for k, of_pass in work for layer in of_pass]
        assert sorted(pairs) == [(k, layer) for k in SPREADS for layer in range(layers)]


def test_each_pass_has_every_spread_k_in_an_order_of_its_own() -> None:
    work = [k for k, _ in passes(12)]
    orders = [work[n : n + len(SPREADS)] for n in range(0, len(work), len(SPREADS))]
    assert all(sorted(order) == SPREADS for order in orders)
    assert len({tuple(order) for order in orders}) == PASSES
    assert passes(12) == passes(12) != passes(12, seed=1)


def test_what_is_finished_is_left_out_but_every_spread_k_is_prefilled() -> None:
    pairs = [(k, layer) for k, of_pass in passes(3, finished=(4, 1)) for layer in of_pass]
    assert (4, 1) not in pairs
    assert len(pairs) == 3 * len(SPREADS) - 1
    assert sorted(k for k, _ in passes(0)) == SPREADS
