"""Fixtures that take seconds to make: small models on disk and a real engine for each module."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# A machine that others use too may take any time for an example.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
# Threads that wait for one another on a busy machine turn calls of microseconds into milliseconds.
os.environ.setdefault("OMP_NUM_THREADS", "1")

LENGTH, BLOCK_SIZE = 300, 32


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gpt2 of 3 layers, 2 heads of 64 and 128 positions, with its usual initialisation."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=3, n_embd=128, n_head=2, n_positions=128, vocab_size=512, bos_token_id=0, eos_token_id=0
    )
    path = tmp_path_factory.mktemp("models") / "tiny-gpt2"
    GPT2LMHeadModel(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def tiny_windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mistral of 2 layers with windows of 16 tokens, and one KV head of 64 for its 2 heads."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        num_hidden_layers=2, hidden_size=128, intermediate_size=128, num_attention_heads=2, head_dim=64,
        num_key_value_heads=1, sliding_window=16, max_position_embeddings=128, vocab_size=512,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("models") / "tiny-windowed"
    MistralForCausalLM(config).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def inference_mode() -> Iterator[None]:
    """As in the main job: vLLM's tensors may only be written to in inference mode."""
    import torch

    with torch.inference_mode():
        yield


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    """One prompt of LENGTH tokens below the small model's vocabulary."""
    return [[(7 * n + n * n) % 512 for n in range(LENGTH)]]


@pytest.fixture(scope="module")  # one at a time: closing an engine ends what vLLM keeps for all of a process
def engine(tiny_gpt2: Path) -> Iterator[object]:
    """A real engine with the small gpt2, its positions extended from 128 to LENGTH."""
    from harness.engine.engine import Engine
    from tests.engines import inputs

    with Engine(*inputs(tiny_gpt2, length=LENGTH, block_size=BLOCK_SIZE)) as engine:
        yield engine
