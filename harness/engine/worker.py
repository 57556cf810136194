"""What is added to vLLM's workers: a way to call the harness in every rank, and patches of the model.

vLLM imports this module in each worker before the model is loaded, and makes the class below a base of the
worker's (see names.EXTENSION).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.engine import vllm_log
from patches import PatchError, amx, engine, positions, windows

if TYPE_CHECKING:
    from harness.engine.rank import Rank

vllm_log.hand_over_errors()
amx.enable()
positions.extend_in_worker()


class WorkerExtension:
    """Methods that Executor.collective_rpc reaches in every rank."""

    def rank_itself(self) -> Rank:
        """This rank's side of the harness, always the same object."""
        from harness.engine.rank import Rank

        rank: Rank | None = vars(self).get("_rank_itself")
        if rank is None:
            rank = vars(self)["_rank_itself"] = Rank(self)
        return rank

    def keep_own_windows(self) -> None:
        """See patches/windows.py; called once, when the model is loaded."""
        windows.keep_own(engine.attention_layers(self))

    def on_rank(self, method: str, args: tuple[Any, ...]) -> Any:
        """Call a method of the rank's side.

        Errors that say what to do are returned, not raised: an error raised in a worker loses its type on the
        way and prints pages of traceback.
        """
        import torch

        from harness.calls.capture import CaptureError
        from harness.measure.profile import ProfileError

        try:
            with torch.inference_mode():  # vLLM's tensors may only be written to in it
                return getattr(self.rank_itself(), method)(*args)
        except (CaptureError, PatchError, ProfileError) as error:
            return error
