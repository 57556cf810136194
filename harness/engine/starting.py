"""What the harness changes in a vLLM engine during and right after its start; patches/ says why."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from typing import Any

from harness.config.engine import EngineSpec
from harness.engine.options import engine_environment, environment
from harness.models import ModelSource


@contextmanager
def apply_patches(spec: EngineSpec, source: ModelSource) -> Iterator[None]:
    """Give engines that start inside the block the requested environment, longer positions and one block
    size.
    """
    from patches import kv_cache_groups, positions

    longer: AbstractContextManager[None] = nullcontext()
    if source.extended_positions is not None:
        longer = positions.extending(source.extended_positions)
    with (
        environment(engine_environment(spec, source)),
        longer,
        kv_cache_groups.unifying(spec.block_size),
        warnings.catch_warnings(),
        _stdout_with_descriptor(),
    ):
        warnings.simplefilter("ignore")  # vLLM's own: nothing that a user of the harness could act on
        yield


def _stdout_with_descriptor() -> AbstractContextManager[Any]:
    """vLLM duplicates the descriptor of sys.stdout, which a notebook's or a captured one may lack."""
    try:
        sys.stdout.fileno()
    except (AttributeError, OSError, ValueError):
        return redirect_stdout(sys.__stdout__)
    return nullcontext()


def complete(llm: Any, seed: int, source: ModelSource) -> Any:
    """Give a started `LLMEngine` its layers' own windows and, where it loaded none, its weights; its core."""
    from patches import engine, weights

    core = engine.core(llm)
    core.model_executor.collective_rpc("keep_own_windows")
    if (std := source.drawn_std) is not None:
        core.model_executor.collective_rpc(weights.draw, args=(std, seed))
    return core
