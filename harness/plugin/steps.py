"""Which steps need no cache: known in the worker, from what the scheduler sends it."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from harness.plugin import mode
from patches import prefill_only

# Whether the step that this thread runs needs no cache; profiling, warm-up and capture do.
_self_contained: ContextVar[bool] = ContextVar("self_contained", default=False)


def install() -> None:
    """Look at each step ahead of the worker, on every rank."""
    mode.wrap(prefill_only.EXECUTE_MODEL, _looking)


def self_contained(vllm_config: Any) -> bool:
    """Whether attention of the step that this thread prepares runs on the step's own K and V alone."""
    asked = mode.of(vllm_config)
    return asked == "nocache" or (asked == "step" and _self_contained.get())


def needs_no_cache(scheduler_output: Any) -> bool:
    """Whether every request's whole prompt is computed in this step, and none goes on after it.

    A request of several tokens goes on, so its K and V must be written. Steps of one-token prompts alone look
    like decoding, for which there may be a full CUDA graph that writes and reads the cache: left to it.
    """
    tokens = scheduler_output.num_scheduled_tokens
    new = scheduler_output.scheduled_new_reqs
    return (
        len(new) == len(tokens) > 0
        and max(tokens.values()) > 1
        and all(_begins_and_ends(request, tokens[request.req_id]) for request in new)
    )


def _begins_and_ends(request: Any, num_scheduled: int) -> bool:
    prompt = request.prompt_embeds if request.prompt_token_ids is None else request.prompt_token_ids
    if prompt is None or request.num_computed_tokens or num_scheduled != len(prompt):
        return False
    return request.pooling_params is not None or request.sampling_params.max_tokens == 1


def _looking(execute: Any) -> Any:
    def execute_model(self: Any, scheduler_output: Any) -> Any:
        asked = mode.of(self.vllm_config)
        if asked is None:
            return execute(self, scheduler_output)
        if asked == "nocache":
            _require_whole_prompts(scheduler_output)
        token = _self_contained.set(needs_no_cache(scheduler_output))
        try:
            return execute(self, scheduler_output)
        finally:
            _self_contained.reset(token)

    return execute_model


def _require_whole_prompts(scheduler_output: Any) -> None:
    """Raise RuntimeError at a step that would need a cache; names with an underscore are vLLM's warm-up."""
    new = {request.req_id: request for request in scheduler_output.scheduled_new_reqs}
    for name, count in scheduler_output.num_scheduled_tokens.items():
        if not name.startswith("_") and not (name in new and _begins_and_ends(new[name], count)):
            raise RuntimeError(f"request {name} needs a KV cache, which {mode.VARIABLE}=nocache has not")
