"""What an engine of a small model is started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import config, device, models
from harness.config import RunConfig
from harness.models import ModelSource


def inputs(model: Path, **options: Any) -> tuple[RunConfig, ModelSource]:
    """A resolved configuration, without compilation unless asked for, and its model, ready to be loaded.

    Args:
        model: its directory.
        options: of RunConfig, a length or a batch among them.
    """
    small = {"model": str(model), "enforce_eager": True, "gpu_memory_utilization": 0.2}
    resolved = config.resolve(config.load(RunConfig, small | options), device.kind())
    return resolved, models.materialise(models.inspect(str(model), length=resolved.length), seed=0)
