"""Which requests are refused at the door, with an error that an API server returns to its client."""

from __future__ import annotations

from typing import Any

from harness.plugin import mode
from harness.plugin.mode import Refused
from patches import prefill_only


def install() -> None:
    """Check each request where an API takes it in, and again where the scheduler does."""
    mode.wrap(prefill_only.PROCESS_INPUTS, _processing)
    mode.wrap(prefill_only.ADD_REQUEST, _adding)


def objection(asked: str, params: Any, resumable: bool) -> str | None:
    """Why a request cannot be served in this mode, or None.

    Args:
        asked: the engine's mode.
        params: SamplingParams, or PoolingParams or None of a pooling request.
        resumable: whether more of its prompt may come later.
    """
    if resumable:
        return f"{mode.VARIABLE}={asked}: a prompt in parts reads K and V of earlier ones; send it whole"
    count = getattr(params, "max_tokens", 1)
    if asked == "nocache" and count != 1:
        return (
            f"max_tokens={count}: {mode.VARIABLE}=nocache keeps no K and V, so a request ends with its first "
            "token; set max_tokens to 1"
        )
    return None


def _processing(process: Any) -> Any:
    def process_inputs(
        self: Any, request_id: Any, prompt: Any, params: Any, *args: Any, **kwargs: Any
    ) -> Any:
        asked = mode.of(self.vllm_config)
        # By keyword wherever vLLM calls it; `add_request` below sees it in any case.
        if asked and (found := objection(asked, params, kwargs.get("resumable", False))):
            raise Refused(found)
        return process(self, request_id, prompt, params, *args, **kwargs)

    return process_inputs


def _adding(add: Any) -> Any:
    def add_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        asked = mode.of(self.vllm_config)
        if asked and (found := objection(asked, request.sampling_params, request.resumable)):
            raise Refused(found)
        return add(self, request, *args, **kwargs)

    return add_request
