"""A whole work through one engine, pass by pass, as a user's engine would run it: behind a child process."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from harness import device
from harness.engine import compatibility
from harness.engine.answers import Agreement, compare
from harness.engine.child import end_with_parent
from harness.engine.serving import LOGPROBS, Answer, EngineSetup, Serving, ServingFacts, serving
from harness.engine.step_log import PassLog, StepLog
from harness.kernels import overrides
from patches import PatchError, engine, layer_kinds, steering
from patches.steering import Override


@dataclass(frozen=True)
class Way:
    """How a pass runs the work. The default is vLLM as it is."""

    override: Override | None = None  # in steps of whole prompts; see patches.steering
    whole_prompts: bool = False  # the scheduler cuts no prompt at the end of a step


@dataclass(frozen=True)
class Request:
    """One request of the work."""

    token_ids: tuple[int, ...]
    arrival_s: float = 0.0  # since the pass began


@dataclass(frozen=True)
class WorkFacts(ServingFacts):
    """What the engine reports about itself before the work."""

    chunked: bool  # whether a step may end within a prompt
    scheduler_here: bool  # it shares a process, and its settings, with the only rank
    why_not: str | None  # attention cannot run on a step's own K and V
    remark: str | None  # layers that run as in vLLM all the same


@dataclass(frozen=True)
class Pass:
    """One pass through the work."""

    seconds: float
    request_s: tuple[float, ...]  # of each request in turn, from its arrival to its answer
    steered: int  # steps that an override ran; 0 without one
    untouched: int  # steps that it left as in vLLM


@dataclass
class _Held:
    """What is in place in a worker while a pass runs."""

    undo: ExitStack = field(default_factory=ExitStack)
    log: StepLog | None = None
    steering: steering.Steering | None = None
    before: tuple[int, int] = (0, 0)


class Working(Serving):
    """A running engine that takes a work as often as asked."""

    def __init__(
        self, serving: Serving, task: str, requests: Sequence[Request], params: Mapping[str, Any]
    ) -> None:
        """
        Args:
            task: vLLM's, "generate" or one that pools.
            params: of vLLM's SamplingParams, beside those that make a prefill of it.

        Raises:
            ValueError: the model has no such task.
        """
        super().__init__(serving.llm, serving.setup, serving.start_s)
        if task not in (tasks := self.llm.supported_tasks):
            raise ValueError(f"--task: vLLM runs this model for {', '.join(tasks)}, not to {task}")
        self.task = task
        if self.setup.own_process:
            self._in_worker(follow_parent)
        self.requests, self._params = requests, dict(params)
        self._stock: list[Answer] | None = None
        self._passes = 0

    def facts(self) -> WorkFacts:
        about = self._in_worker(describe_worker)
        facts = super().facts()
        settings = facts.settings.model_copy(update=about.pop("settings"))
        return WorkFacts(**vars(facts) | {"settings": settings}, **about)

    def run_pass(self, way: Way) -> Pass:
        """One pass, with what the way changes put in place ahead of it."""
        return self._pass(way, None, answers=False)[0]

    def check(self, way: Way) -> tuple[Pass, Agreement]:
        """One pass whose answers are held against those of the first one that was checked."""
        done, answers, _ = self._pass(way, None, answers=True)
        self._stock = self._stock or answers
        return done, compare(self._stock, answers, self.dtype)

    def record(self, way: Way, every: Mapping[str, int] | None = None) -> tuple[Pass, PassLog]:
        """One pass whose steps are recorded, or with `every` some of each kind profiled; see StepLog."""
        done, _, log = self._pass(way, every or {}, answers=False)
        return done, log

    def shut_down(self) -> None:
        """Stop the engine's own process, which must not outlive this one."""
        self.llm.llm_engine.engine_core.shutdown()

    @property
    def dtype(self) -> str:
        """Of activations."""
        return str(self.llm.llm_engine.vllm_config.model_config.dtype).removeprefix("torch.")

    def _pass(
        self, way: Way, every: Mapping[str, int] | None, answers: bool
    ) -> tuple[Pass, list[Answer], PassLog]:
        self.forget_prefixes()  # so that all passes find the same
        self._in_worker(begin, way, every)
        try:
            started = time.perf_counter()
            outputs, request_s = self._serve(started, answers)
            seconds = time.perf_counter() - started
        finally:
            log, steered, untouched = self._in_worker(end)
        done = Pass(seconds, tuple(request_s), steered, untouched)
        return done, [self._answer(output) for output in outputs] if answers else [], log

    def _in_worker(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The first rank's result of a function of this module, called with each worker."""
        # Pickled here: vLLM's own way to another process makes dictionaries of dataclasses.
        answers = self.llm.collective_rpc(call_pickled, args=(pickle.dumps((function, arguments)),))
        return pickle.loads(answers[0])

    def _serve(self, started: float, answers: bool) -> tuple[list[Any], list[float]]:
        """Add each request when it arrives and step until all are answered; as LLM.generate does."""
        engine, params = self.llm.llm_engine, self._parameters(answers)
        waiting = sorted(range(len(self.requests)), key=lambda n: (-self.requests[n].arrival_s, -n))
        outputs: list[Any] = [None] * len(waiting)
        request_s = [0.0] * len(waiting)
        self._passes += 1
        while waiting or engine.has_unfinished_requests():
            now = time.perf_counter() - started
            while waiting and self.requests[waiting[-1]].arrival_s <= now:
                number = waiting.pop()
                prompt = {"prompt_token_ids": list(self.requests[number].token_ids)}
                engine.add_request(f"{self._passes}-{number}", prompt, params)
            if not engine.has_unfinished_requests():
                time.sleep(max(0.0, self.requests[waiting[-1]].arrival_s - now))
                continue
            for output in engine.step():
                if output.finished:
                    number = int(output.request_id.split("-")[1])
                    arrival_s = self.requests[number].arrival_s
                    request_s[number] = time.perf_counter() - started - arrival_s
                    outputs[number] = output
        return outputs, request_s

    def _parameters(self, answers: bool) -> Any:
        from vllm import PoolingParams, SamplingParams

        if self.task != "generate":
            return PoolingParams(task=self.task)
        logprobs = LOGPROBS if answers else None
        prefill = {"max_tokens": 1, "temperature": 0.0, "detokenize": False, "logprobs": logprobs}
        return SamplingParams(**prefill | self._params)


@contextmanager
def working(
    setup: EngineSetup, task: str, requests: Sequence[Request], params: Mapping[str, Any]
) -> Iterator[Working]:
    """For `Child`: start an engine and yield it."""
    with serving(setup) as served:
        yield Working(served, task, requests, params)


def call_pickled(worker: Any, call: bytes) -> bytes:
    """Call a function with the worker and its other arguments."""
    function, arguments = pickle.loads(call)
    return pickle.dumps(function(worker, *arguments))


def follow_parent(worker: Any) -> None:
    """End the worker's process once its parent is gone, however that ends: vLLM's core would stay."""
    end_with_parent()


def describe_worker(worker: Any) -> dict[str, Any]:
    """Of a worker: the fields of WorkFacts beyond those of ServingFacts."""
    layers, kinds = engine.attention_layers(worker), layer_kinds.kinds(worker)
    left_out = kinds.not_steered(worker.model_config.max_model_len)
    remark = f"{len(left_out)} of {len(layers)} layers run attention as in vLLM" if left_out else None
    cache, scheduler = worker.cache_config, worker.vllm_config.scheduler_config
    return {
        "settings": {
            "num_blocks_in_pool": cache.num_gpu_blocks,
            "kv_cache_bytes": sum(layer.kv_cache.nbytes for layer in layers.values()
                                  if isinstance(getattr(layer, "kv_cache", None), torch.Tensor)),
        },
        "chunked": bool(scheduler.enable_chunked_prefill),
        "scheduler_here": worker.vllm_config.parallel_config.distributed_executor_backend == "uni",
        "why_not": _why_not(worker, kinds),
        "remark": remark,
    }  # fmt: skip


def _why_not(worker: Any, kinds: layer_kinds.LayerKinds) -> str | None:
    """Why attention cannot run on the K and V of a step in this engine, or None."""
    layers = engine.attention_layers(worker)
    reasons = kinds.not_steered(worker.model_config.max_model_len)
    if len(reasons) == len(layers):
        return "; ".join(dict.fromkeys(reasons.values())) or "the model has no attention layer"
    if getattr(worker.vllm_config.compilation_config.cudagraph_mode, "name", None) == "FULL":
        return "attention is inside the CUDA graph, where nothing can be overridden"
    try:
        unknown = _steering(worker).no_override
    except PatchError as error:
        return str(error)
    return f"how {', '.join(unknown)} calls its kernel is not known" if unknown else None


def _steering(worker: Any) -> steering.Steering:
    """The worker's one steering; raises PatchError if it cannot have one."""
    known: steering.Steering | None = vars(worker).get("_work_steering")
    if known is None:
        if missing := compatibility.why_not(device.kind(), steering.FEATURE):
            raise PatchError(missing)
        layers, runner = engine.attention_layers(worker), worker.model_runner
        kernels, sources = overrides.BACKEND_KERNELS, overrides.by_source()
        known = steering.Steering(layers, runner, kernels, sources, layer_kinds.kinds(worker))
        vars(worker)["_work_steering"] = known
    return known


def begin(worker: Any, way: Way, every: Mapping[str, int] | None) -> None:
    """Put in place what a pass runs with; `end` takes it away again.

    Args:
        every: see StepLog; None: record nothing.
    """
    held = vars(worker)["_work"] = _Held()
    scheduler = worker.vllm_config.scheduler_config  # the scheduler's own where they share a process
    if way.whole_prompts:
        held.undo.callback(setattr, scheduler, "enable_chunked_prefill", scheduler.enable_chunked_prefill)
        scheduler.enable_chunked_prefill = False
    if way.override is not None:
        held.steering = _steering(worker)
        held.before = held.steering.steered, held.steering.untouched
        held.undo.enter_context(held.steering.on(way.override))
    if every is not None:
        held.log = StepLog(worker, device.kind(), every)
        held.undo.enter_context(held.log.recording())


def end(worker: Any) -> tuple[PassLog, int, int]:
    """Undo `begin`; what was recorded, and the steps that an override ran and did not."""
    held: _Held = vars(worker).pop("_work")
    log = held.log.close() if held.log else PassLog()
    held.undo.close()
    if held.steering is None:
        return log, 0, 0
    steered, untouched = held.before
    return log, held.steering.steered - steered, held.steering.untouched - untouched
