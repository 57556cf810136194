"""Which requests are refused at the door, with an error that an API server returns to its client."""

from __future__ import annotations

from typing import Any

from harness.plugin import mode
from patches import prefill_only


def install() -> None:
    """Check each request where an API takes it in, and again where the engine does."""
    mode.wrap(prefill_only.PROCESS_INPUTS, _processing)
    mode.wrap(prefill_only.ADD_REQUEST, _adding)


def check(vllm_config: Any, params: Any, resumable: bool) -> None:
    """Raise vLLM's VLLMValidationError if an engine cannot serve a request in its mode.

    Args:
        params: SamplingParams, or PoolingParams or None of a pooling request.
        resumable: whether more of its prompt may come later.
    """
    asked, count = mode.of(vllm_config), getattr(params, "max_tokens", 1)
    if asked and resumable:
        raise prefill_only.BAD_REQUEST.resolve()(
            f"{mode.VARIABLE}={asked}: a prompt in parts reads K and V of earlier ones; send it whole"
        )
    if asked == "nocache" and count != 1:
        raise prefill_only.BAD_REQUEST.resolve()(
            f"max_tokens={count}: {mode.VARIABLE}=nocache keeps no K and V, so a request ends with its first "
            "token; set max_tokens to 1"
        )


def _processing(process: Any) -> Any:
    def process_inputs(
        self: Any, request_id: Any, prompt: Any, params: Any, *args: Any, **kwargs: Any
    ) -> Any:
        # vLLM gives `resumable` by its name; `add_request` below sees it in any case.
        check(self.vllm_config, params, kwargs.get("resumable", False))
        return process(self, request_id, prompt, params, *args, **kwargs)

    return process_inputs


def _adding(add: Any) -> Any:
    def add_request(self: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        check(self.vllm_config, request.sampling_params, request.resumable)
        return add(self, request, *args, **kwargs)

    return add_request
