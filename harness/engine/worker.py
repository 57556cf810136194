"""What is added to vLLM's workers: a way to call this harness inside every rank, and patches of the model.

vLLM imports this module in each worker before the model is loaded, and makes the class below a base of the
worker's (EngineArgs.worker_extension_cls).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from patches import PatchError, Symbol, engine, positions, windows

if TYPE_CHECKING:
    from harness.engine.rank import Rank

NEEDS = (Symbol("vllm.v1.worker.worker_base:WorkerBase", ("vllm_config", "rank")),)
EXTENSION = f"{__name__}.WorkerExtension"

# In the environment of worker processes: the rows that position tables are repeated to.
EXTENDED_POSITIONS = "PREFILL_HARNESS_EXTENDED_POSITIONS"

if _rows := os.environ.get(EXTENDED_POSITIONS):
    _extended = positions.extended(int(_rows))  # has a name, as it would end when nothing refers to it
    _extended.__enter__()


@contextmanager
def extending_positions(num_positions: int) -> Iterator[None]:
    """While active, position tables are extended in this process, and in workers that start for as long as
    they live."""
    os.environ[EXTENDED_POSITIONS] = str(num_positions)
    try:
        with positions.extended(num_positions):
            yield
    finally:
        del os.environ[EXTENDED_POSITIONS]


class WorkerExtension:
    """Methods that Executor.collective_rpc reaches in every rank."""

    def rank_itself(self) -> Rank:
        """This rank's side of the harness; the same object every time."""
        from harness.engine.rank import Rank

        found: Rank | None = vars(self).get("_rank_itself")
        if found is None:
            found = vars(self)["_rank_itself"] = Rank(self)
        return found

    def keep_own_windows(self) -> None:
        """See patches/windows.py; wanted once, when the model is loaded."""
        windows.keep_own(engine.attention_layers(self))

    def on_rank(self, method: str, args: tuple[Any, ...]) -> Any:
        """Call a method of the rank's side.

        Errors that say what to do are the answer, not raised: what a worker raises loses its type on the way
        and leaves pages of traceback behind.
        """
        import torch

        from harness.calls.capture import CaptureError
        from harness.measure.profile import ProfileError

        try:
            with torch.inference_mode():  # vLLM's tensors may only be written to in it
                return getattr(self.rank_itself(), method)(*args)
        except (CaptureError, PatchError, ProfileError) as error:
            return error
