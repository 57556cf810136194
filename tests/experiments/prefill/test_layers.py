"""Notices about layers other than plain attention, without an engine."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from harness.experiments.prefill import layers


def notices(**kinds: Any) -> list[str]:
    """Those of a model of three layers, of which these are not plain attention."""
    named = {"states": {}, "quantised": {}} | kinds
    of_kinds = SimpleNamespace(
        states=named["states"],
        quantised=named["quantised"],
        not_captured=lambda longest: named["quantised"],
        not_steered=lambda longest: named["quantised"],
    )
    engine: Any = SimpleNamespace(
        about=SimpleNamespace(layers=["l.0", "l.1", "l.2"], kinds=of_kinds),
        groups=SimpleNamespace(other_attention=[]),
    )
    said: list[str] = []
    recorder: Any = SimpleNamespace(notice=said.append)
    layers.note(engine, 64, recorder)
    return said


def test_plain_attention_needs_no_notice():
    assert notices() == []


def test_layers_without_attention_are_named_by_kind():
    states = {"m.0": "mamba2", "m.1": "mamba2", "m.2": "short_conv", "m.3": "mamba2"}
    (text,) = notices(states=states)
    assert text.startswith("4 layers without attention (mamba2 and short_conv): in every prefill's time")
    assert text.endswith("not replayed: m.0 to m.3")


def test_quantised_caches_are_counted_and_left_out():
    left_out, quantised, steered = notices(quantised={"l.1": "fp8"})
    assert left_out == "layer 1 left out: fp8"
    assert quantised.startswith("the KV cache of 1 of 3 layers is fp8: whole prefills are timed")
    assert steered.startswith("1 of 3 layers run attention as in vLLM in every arm")
