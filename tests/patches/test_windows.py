"""A step's window is the group's no longer where layers have different ones; elsewhere nothing is touched."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import patches
from patches import problems, windows

pytestmark = pytest.mark.engine


@pytest.fixture
def builder(monkeypatch):
    """vLLM's class as in 0.26, whose steps all carry a window of 16 tokens."""
    monkeypatch.setattr(patches, "installed_vllm", lambda: "vllm 0.26.0")
    found = windows.BUILDER.resolve()
    monkeypatch.setattr(found, "build", lambda *_: SimpleNamespace(sliding_window=(15, 0), causal=True))
    return found


def test_vllm_has_what_is_replaced():
    assert not problems(windows.NEEDS_ON_CUDA)


def layers(*own, backend="FLASH_ATTN"):
    named = SimpleNamespace(get_name=lambda: backend)
    return {
        str(n): SimpleNamespace(impl=SimpleNamespace(sliding_window=window), attn_backend=named)
        for n, window in enumerate(own)
    }


def test_steps_carry_no_window_where_layers_have_different_ones(builder):
    windows.keep_own(layers((15, 0), (-1, -1)))
    once = builder.build
    windows.keep_own(layers((15, 0), (-1, -1)))
    assert builder.build is once
    assert builder.build(None, 0, None) == SimpleNamespace(sliding_window=None, causal=True)


@pytest.mark.parametrize(
    "of_model", [layers((15, 0), (15, 0)), layers((-1, -1)), layers((15, 0), (-1, -1), backend="TRITON_ATTN")]
)
def test_other_models_are_left_alone(builder, of_model):
    build = builder.build
    windows.keep_own(of_model)
    assert builder.build is build


def test_a_vllm_whose_layers_keep_their_own_windows_is_left_alone(builder, monkeypatch):
    monkeypatch.setattr(patches, "installed_vllm", lambda: "vllm 0.28.0")
    build = builder.build
    windows.keep_own(layers((15, 0), (-1, -1)))
    assert builder.build is build
