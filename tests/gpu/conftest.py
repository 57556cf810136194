"""Tests in this folder need an NVIDIA GPU, vLLM for it, and where they say so flash-attn."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import device


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    if device.kind() == "cuda":
        return
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))
