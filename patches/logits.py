"""A hook on the logits that vLLM samples from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from patches import PatchError, Symbol, problems

FEATURE = "in-engine arms"
NEEDS = (
    Symbol("vllm.v1.worker.gpu_model_runner:GPUModelRunner.sample_tokens"),
    Symbol("vllm.model_executor.models.interfaces_base:VllmModelForTextGeneration.compute_logits"),
)
NEEDS_ON_CUDA = (Symbol("vllm.v1.worker.gpu.model_runner:GPUModelRunner.sample_tokens", since="0.29"),)


@contextmanager
def observing(model: Any) -> Iterator[list[torch.Tensor]]:
    """Collect copies of what `model.compute_logits` returns, [requests, vocabulary], inside the block.

    Raises:
        PatchError: this vLLM samples in another way.
    """
    if missing := problems(NEEDS):
        raise PatchError("; ".join(missing))
    seen: list[torch.Tensor] = []
    compute_logits = model.compute_logits

    def computing(*args: Any, **kwargs: Any) -> Any:
        logits = compute_logits(*args, **kwargs)
        if logits is not None:  # on ranks that do not sample
            seen.append(logits.detach().clone())
        return logits

    had = "compute_logits" in vars(model)
    model.compute_logits = computing
    try:
        yield seen
    finally:
        if had:
            model.compute_logits = compute_logits
        else:
            del model.compute_logits
