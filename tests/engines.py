"""What an engine of a small model is started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness import config, device, models
from harness.config import EngineSpec, RunConfig
from harness.models import ModelSource


def configured(model: Path, **options: Any) -> RunConfig:
    """A resolved configuration, without compilation unless asked for; arguments as those of `inputs`."""
    small = {"model": str(model), "enforce_eager": True, "gpu_memory_utilization": 0.2}
    return config.resolve(config.load(RunConfig, small | options), device.kind())


def inputs(model: Path, **options: Any) -> tuple[EngineSpec, ModelSource]:
    """What the main job's engine is started with, and its model, ready to be loaded.

    Args:
        model: its directory.
        options: of RunConfig, a length or a batch among them.
    """
    resolved = configured(model, **options)
    return resolved.engine(), models.materialise(models.inspect(str(model), length=resolved.length), seed=0)
