"""Engines of small models: what they are started with, and engines for experiments without a process each."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from harness import config, device, models
from harness.config import EngineSpec
from harness.engine.child import EngineFailed, Make
from harness.experiments.prefill.options import RunConfig, resolve
from harness.models import ModelSource
from harness.runs.record import status_of


def configured(model: Path, **options: Any) -> RunConfig:
    """A resolved configuration, without compilation unless asked for; arguments as those of `inputs`."""
    small = {"model": str(model), "enforce_eager": True, "gpu_memory_utilization": 0.2}
    return resolve(config.load(RunConfig, small | options), device.kind())


def inputs(model: Path, **options: Any) -> tuple[EngineSpec, ModelSource]:
    """What the main job's engine is started with, and its model, ready to be loaded.

    Args:
        model: its directory.
        options: of RunConfig, a length or a batch among them.
    """
    resolved = configured(model, **options)
    return resolved.engine(), models.materialise(models.inspect(str(model), length=resolved.length), seed=0)


class ChildHere:
    """Does what a Child does, in this process: all tests of a worker share one import of vLLM.

    What goes to it and comes from it is pickled, as on a pipe. Child's own tests are in test_child.py.
    """

    def __init__(self, make: Make, *arguments: Any) -> None:
        self._closing = ExitStack()
        with _failing(), torch.inference_mode():
            self._served = self._closing.enter_context(make(*_piped(arguments)))
            self.facts = _piped(self._served.facts())

    def ask(self, name: str, *arguments: Any) -> Any:
        with _failing(), torch.inference_mode():
            return _piped(getattr(self._served, name)(*_piped(arguments)))

    def close(self) -> None:
        with torch.inference_mode():
            self._closing.close()

    kill = close

    def __enter__(self) -> ChildHere:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@contextmanager
def children_here() -> Iterator[None]:
    """Experiments whose engines run one after the other run them in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("backends.engine", "backends.attention_alone", "kvcache.measure", "workload.measure"):
            patch.setattr(import_module(f"harness.experiments.{module}"), "Child", ChildHere)
        yield


def _piped(something: Any) -> Any:
    return pickle.loads(pickle.dumps(something))


@contextmanager
def _failing() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise EngineFailed(*status_of(error)) from error
