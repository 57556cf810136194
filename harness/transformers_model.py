"""A model in transformers that generates token by token, with its KV cache or without, every step timed."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from harness.generation import Generated, Step
from harness.measure import memory
from harness.models import ModelSource


class TransformersModel:
    """A causal language model in this process; see Child for one in a process of its own."""

    def __init__(self, source: ModelSource, dtype: str, device: str, seed: int) -> None:
        """Load a materialised model.

        Args:
            dtype: PyTorch's name, e.g. "bfloat16".
            device: "cpu" or "cuda".
            seed: of the weights of a model that has none.
        """
        started = time.perf_counter()
        self._device = device
        self._model = _load(source, getattr(torch, dtype), device, seed).eval()
        takes = inspect.signature(self._model.forward).parameters
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self.start_s = time.perf_counter() - started

    def facts(self) -> dict[str, Any]:
        """For the run's record."""
        return {
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "attention": str(getattr(self._model.config, "_attn_implementation", None)),
            "start_s": round(self.start_s, 1),
        }

    def generate(self, prompt: Sequence[int], output_len: int, use_cache: bool) -> Generated:
        """Generate `output_len` tokens greedily, each in a step.

        Args:
            prompt: token ids.
            use_cache: keep K and V of earlier tokens; without, every step computes all of them again.
        """
        from transformers import DynamicCache

        cache = DynamicCache() if use_cache else None
        tokens, steps = list(prompt), []
        memory.start_peak(self._device)
        start_bytes = memory.now_bytes(self._device)
        for n in range(output_len):
            new = tokens[-1:] if use_cache and n else tokens
            start = time.perf_counter()
            ids = torch.tensor([new], device=self._device)
            more = {"past_key_values": cache} if use_cache else {}
            output = self._model(ids, use_cache=use_cache, **more, **self._last_only)
            tokens.append(int(output.logits[0, -1].argmax()))  # waits for the GPU
            seconds = time.perf_counter() - start
            del output
            steps.append(Step(seconds, n > 0, _cache_bytes(cache), memory.now_bytes(self._device)))
        generated = (tuple(tokens[len(prompt) :]),)
        return Generated(generated, tuple(steps), start_bytes, memory.peak_bytes(self._device))


def _load(source: ModelSource, dtype: torch.dtype, device: str, seed: int) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    trust = {"trust_remote_code": source.trust_remote_code}
    if source.weights == "dummy" or source.drawn_in_engine:  # no checkpoint to load
        config = AutoConfig.from_pretrained(source.path, **trust)
        torch.manual_seed(seed)
        with torch.device(device):
            return AutoModelForCausalLM.from_config(config, dtype=dtype, **trust)
    return AutoModelForCausalLM.from_pretrained(source.path, dtype=dtype, **trust).to(device)


def _cache_bytes(cache: Any) -> int:
    """Bytes of the K and V tensors that transformers keeps."""
    if cache is None:
        return 0
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


@contextmanager
def transformers_model(
    source: ModelSource, dtype: str, device: str, seed: int
) -> Iterator[TransformersModel]:
    """For `Child`."""
    yield TransformersModel(source, dtype, device, seed)
