"""Weights drawn inside the engine: a large model with its usual initialisation, without a checkpoint on disk.

vLLM's own dummy weights are so small that attention is nearly uniform and every prompt gives the same token.
"""

from __future__ import annotations

from typing import Any

import torch

from patches import Symbol

FEATURE = "weights drawn in the engine"
NEEDS = (Symbol("vllm.v1.worker.worker_base:WorkerBase.get_model"),)


def draw(worker: Any, std: float, seed: int) -> None:
    """Redraw every weight of a worker's model: matrices normal with `std`, norms 1, biases 0."""
    with torch.inference_mode():
        parameters = dict(worker.get_model().named_parameters())
        device = next(iter(parameters.values())).device
        generator = torch.Generator(device=device).manual_seed(seed)
        for name, parameter in parameters.items():
            if parameter.ndim > 1:
                parameter.normal_(0.0, std, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
