"""The steps of a model runner: what the scheduler sent for each, and whether a CUDA graph ran it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

from patches import Symbol, replace_attribute

FEATURE = "recording an engine's steps"
FORWARD_CONTEXT = Symbol("vllm.forward_context:get_forward_context")
NEEDS = (
    FORWARD_CONTEXT,
    Symbol("vllm.forward_context:ForwardContext", ("cudagraph_runtime_mode",)),
    Symbol("vllm.v1.worker.gpu_model_runner:GPUModelRunner.execute_model", ("scheduler_output",)),
    Symbol("vllm.v1.worker.gpu_model_runner:GPUModelRunner.sample_tokens"),
    Symbol("vllm.v1.core.sched.output:SchedulerOutput",
           ("scheduled_new_reqs", "scheduled_cached_reqs", "num_scheduled_tokens")),
    Symbol("vllm.v1.core.sched.output:NewRequestData",
           ("req_id", "prompt_token_ids", "num_computed_tokens", "block_ids")),
    Symbol("vllm.v1.core.sched.output:CachedRequestData",
           ("req_ids", "resumed_req_ids", "new_block_ids", "num_computed_tokens")),
    Symbol("vllm.config:SchedulerConfig", ("enable_chunked_prefill",)),
)  # fmt: skip
NEEDS_ON_CUDA = (
    Symbol("vllm.v1.worker.gpu.model_runner:GPUModelRunner.execute_model", ("scheduler_output",), "0.29"),
    Symbol("vllm.v1.worker.gpu.model_runner:GPUModelRunner.sample_tokens", (), "0.29"),
)
ENDS = ("sample_tokens", "pool")  # of a step whose `execute_model` returns nothing; since 0.29 pooling, too


@contextmanager
def watching(
    model_runner: Any,
    layers: Mapping[str, Any],
    before: Callable[[Any], object],
    after: Callable[[str], object],
) -> Iterator[None]:
    """Call `before` with the schedule of each step that has tokens, and `after` once the step is sampled.

    Args:
        layers: vLLM's attention layers by name; the first one's implementation is asked how it is run.
        after: called with the name of the CUDA graphs' mode: NONE (eager), PIECEWISE or FULL.
    """
    # A step whose attention Python never reaches is a full graph's.
    modes: list[str] = []
    under_way = [False]

    def executing(execute_model: Callable[..., Any]) -> Callable[..., Any]:
        def execute(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            if not scheduler_output.num_scheduled_tokens:
                return execute_model(scheduler_output, *args, **kwargs)
            finish()  # a step that failed
            modes.clear()
            before(scheduler_output)
            under_way[0] = True
            done = execute_model(scheduler_output, *args, **kwargs)
            if done is not None:  # else its tokens are still to be sampled, or pooled
                finish()
            return done

        return execute

    def ending(method: Callable[..., Any]) -> Callable[..., Any]:
        def end(*args: Any, **kwargs: Any) -> Any:
            done = method(*args, **kwargs)
            finish()
            return done

        return end

    def finish() -> None:
        if under_way[0]:
            under_way[0] = False
            after(modes[-1] if modes else "FULL" if layers else "NONE")

    def attending(forward: Callable[..., Any]) -> Callable[..., Any]:
        get_forward_context = FORWARD_CONTEXT.resolve()

        def attend(*args: Any, **kwargs: Any) -> Any:
            mode = getattr(get_forward_context(), "cudagraph_runtime_mode", None)
            modes.append(str(getattr(mode, "name", "NONE")))
            return forward(*args, **kwargs)

        return attend

    with ExitStack() as undo:
        replace_attribute(undo, model_runner, "execute_model", executing(model_runner.execute_model))
        for name in ENDS:
            if hasattr(model_runner, name):
                replace_attribute(undo, model_runner, name, ending(getattr(model_runner, name)))
        for layer in list(layers.values())[:1]:
            replace_attribute(undo, layer.impl, "forward", attending(layer.impl.forward))
        yield
