"""A transformers model that generates token by token, with or without its KV cache, every step timed."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from harness.engine.generation import FirstLogits, Generated, Step
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
        self._model, self._last_only = load(source, dtype, device, seed)
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
            use_cache: keep K and V of earlier tokens; otherwise every step recomputes them.
        """
        from transformers import DynamicCache

        # Without the model's configuration it also keeps K and V outside a sliding window, as vLLM does here.
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

    def first_logits(self, prompt: Sequence[int], use_cache: bool) -> FirstLogits:
        """Logits of the first token after a prompt, float32, [vocabulary].

        Args:
            use_cache: the prompt's last token is a step of its own, which reads K and V of those before it.
        """
        from transformers import DynamicCache

        ids = torch.tensor([list(prompt)], device=self._device)
        cached = {"past_key_values": DynamicCache()} if use_cache else {}
        if use_cache and len(prompt) > 1:
            self._model(ids[:, :-1], use_cache=True, **cached, **self._last_only)
            ids = ids[:, -1:]
        logits = self._model(ids, use_cache=use_cache, **cached, **self._last_only).logits
        first: FirstLogits = logits[0, -1].float().cpu().numpy()
        return first


def load(source: ModelSource, dtype: str, device: str, seed: int) -> tuple[Any, dict[str, int]]:
    """A transformers causal language model, and the arguments that make it return only the last token's
    logits.

    Weights that are not on disk are drawn by its own initialisation. Arguments: see TransformersModel.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # the harness has its own
    how = {"dtype": getattr(torch, dtype), "trust_remote_code": source.trust_remote_code}
    torch.manual_seed(seed)
    shape = AutoConfig.from_pretrained(source.path, trust_remote_code=source.trust_remote_code)
    _override(shape, source.hf_overrides)
    if source.load_format == "dummy":
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(shape, **how)
    else:
        model = AutoModelForCausalLM.from_pretrained(source.path, config=shape, **how)
    model = model.to(device).eval()
    # As vLLM does: logits of the last token alone.
    known = inspect.signature(model.forward).parameters
    return model, {"logits_to_keep": 1} if "logits_to_keep" in known else {}


def _override(shape: Any, overrides: dict[str, Any]) -> None:
    """Set values of a transformers configuration, as vLLM does with hf_overrides."""
    from transformers import PretrainedConfig

    for name, value in overrides.items():
        inner = getattr(shape, name, None)
        if isinstance(value, dict) and isinstance(inner, PretrainedConfig):
            _override(inner, value)
        else:
            setattr(shape, name, value)


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
