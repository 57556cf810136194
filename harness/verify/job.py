"""Start the engines, hold their answers against each other, look at their caches, and time them in turns."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from harness import device
from harness.analysis import figures, stats
from harness.engine import served_model
from harness.engine.answers import Agreement, compare
from harness.engine.child import Child
from harness.engine.serving import EngineSetup, Prompts, ReplyTimer, ServingFacts, serving
from harness.measure import clocks
from harness.measure.budget import Budget
from harness.measure.sampler import Series, sample
from harness.measure.timers import Step
from harness.plugin.startup import has_full_graphs
from harness.runs.record import Cell, Result, Status
from harness.verify.options import LEAST_TOKENS, LENGTHS, VerifyConfig

STOCK, GRAPHS = "stock", "+graphs"


@dataclass
class Batch:
    """Prompts that are timed together."""

    name: str
    prompts: Prompts


@dataclass
class Contrast:
    """A batch's time in one engine against stock's."""

    batch: str
    prompts: int
    arm: str
    us: float | None  # median; None: it failed
    difference: stats.PairedDifference | None
    reason: str | None = None


@dataclass
class Verified:
    """All that was found."""

    config: VerifyConfig
    model: str
    weights: str
    facts: dict[str, ServingFacts] = field(default_factory=dict)  # by arm
    alone: dict[str, Agreement] = field(default_factory=dict)  # with stock, prompt by prompt
    together: dict[str, Agreement] = field(default_factory=dict)  # the same, all at once
    itself: Agreement | None = None  # stock all at once, against prompt by prompt
    written: dict[str, int] = field(default_factory=dict)  # numbers of the cache
    contrasts: list[Contrast] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether the plugin gave stock's answers and left the cache alone, which stock did not."""
        agreed = all(each.equal for each in (*self.alone.values(), *self.together.values()))
        plugin = [arm for arm in self.written if not arm.startswith(STOCK)]
        return bool(
            agreed
            and plugin
            and self.written.get(STOCK, 0) > 0
            and not any(self.written[arm] for arm in plugin)
        )


@dataclass(frozen=True)
class _Input:
    """The model as vLLM takes it, the prompts and the batches."""

    arguments: dict[str, Any]
    std: float | None
    weights: str
    prompts: Prompts
    batches: list[Batch]


def run(
    config: VerifyConfig, on_part: Callable[[str, Verified], None] = lambda part, verified: None
) -> Verified:
    """Verify. Raises ConfigError, or EngineFailed if an engine does not start or fails at a prompt.

    Args:
        config: checked.
        on_part: called as each part is done, with what it was and all that was found until then.
    """
    given = _read(config)
    verified = Verified(config, config.model, given.weights)
    with ExitStack() as closing:
        engines = _start(config, given, closing)
        verified.facts = {arm: engine.facts for arm, engine in engines.items()}
        on_part(f"{len(engines)} engines are up", verified)
        _hold_against_stock(verified, engines, given.prompts)
        verified.written = {arm: engine.ask("written", given.prompts) for arm, engine in engines.items()}
        on_part("answers and caches are compared", verified)
        if config.repeats != 0:
            budget = Budget(config.max_seconds, len(given.batches), config.repeats, stats.INTERVAL_SAMPLES)
            for batch in given.batches:
                _time(verified, engines, batch, budget)
                on_part(f"{batch.name} is timed", verified)
    return verified


def _read(config: VerifyConfig) -> _Input:
    """The model's files and the prompts' token ids; takes seconds, starts nothing."""
    sizes = config.sizes()
    model = served_model.read(config, config.seed)
    arguments = {"enable_prefix_caching": False} | model.arguments
    prompts = served_model.read_prompts(config, model, config.prompts, config.seed) if config.prompts else []
    vocabulary, most = model.vocabulary, (config.max_model_len or model.positions) - 1
    if not (sizes or prompts):
        sizes = [(count, min(max(LENGTHS), most)) for count in (1, 8)]
    lengths = [length for length in LENGTHS if length <= most]
    seeded = prompts or [_random(vocabulary, length, config.seed + length) for length in lengths]
    batches = [Batch(f"{count} x {tokens}", [_random(vocabulary, tokens, n) for n in range(count)])
               for count, tokens in sizes]  # fmt: skip
    if not batches:
        batches = [Batch("the first alone", prompts[:1]), Batch("all at once", prompts)]
    longest = max(len(ids) for each in (seeded, *(batch.prompts for batch in batches)) for ids in each)
    room = served_model.room_for(longest, config.max_model_len)
    arguments["max_model_len"] = room
    least = LEAST_TOKENS[device.kind()]
    arguments["max_num_batched_tokens"] = config.max_num_batched_tokens or max(room, least)
    answered = [*seeded, *(batch.prompts[0] for batch in batches if not config.prompts)]
    return _Input(arguments, model.std, model.weights, answered, batches)


def _random(vocabulary: int, length: int, seed: int) -> list[int]:
    source = random.Random(seed)
    return [source.randrange(vocabulary) for _ in range(length)]


def _start(config: VerifyConfig, given: _Input, closing: ExitStack) -> dict[str, Child]:
    """All engines by arm: at once where the size of the KV cache is given, else in turn, as vLLM measures
    what is free.
    """
    plain = [STOCK, *config.mode]
    arms = plain + [arm + GRAPHS for arm in plain if config.graphs]
    share = config.gpu_memory_utilization or round(0.9 / len(arms), 3)
    shared = {"gpu_memory_utilization": share, **given.arguments}
    at_once = device.kind() == "cuda" and "kv_cache_memory_bytes" in config.engine_options

    def start(arm: str) -> Child:
        mode = arm.removesuffix(GRAPHS)
        arguments = shared | (_covering(given, shared, mode) if arm.endswith(GRAPHS) else {})
        if mode != STOCK and shared["max_num_batched_tokens"] >= shared["max_model_len"]:
            # As docs/plugin.md has it: a step with a part of a prompt would be vLLM's own.
            arguments = {"enable_chunked_prefill": False} | arguments
        return Child(serving, EngineSetup(None if mode == STOCK else mode, arguments, given.std, config.seed))

    engines: dict[str, Child] = {}
    for names in (plain, [arm for arm in arms if arm not in plain]):  # which share compiled code, arm by arm
        with ThreadPoolExecutor(len(plain) if at_once else 1) as pool:
            starting = {arm: pool.submit(start, arm) for arm in names}
            for each in starting.values():
                closing.callback(lambda each=each: each.exception() or each.result().close())  # type: ignore[misc]
        engines |= {arm: each.result() for arm, each in starting.items()}
    return engines


def _covering(given: _Input, arguments: dict[str, Any], mode: str) -> dict[str, Any]:
    """vLLM's arguments for graphs of just the batches' steps, as long as they are; full ones if possible."""
    most = arguments["max_num_batched_tokens"]
    sizes = {min(sum(map(len, batch.prompts)), most) for batch in given.batches}
    ours: dict[str, Any] = {"cudagraph_capture_sizes": sorted(sizes | {1, most})}
    if mode == "nocache" and has_full_graphs(arguments, device.describe().get("compute_capability")):
        ours["cudagraph_mode"] = "FULL"
    return {"compilation_config": (arguments.get("compilation_config") or {}) | ours}


def _hold_against_stock(verified: Verified, engines: dict[str, Child], prompts: Prompts) -> None:
    dtype = verified.facts[STOCK].dtype
    alone = {arm: engine.ask("answers", prompts, True) for arm, engine in engines.items()}
    together = {arm: engine.ask("answers", prompts, False) for arm, engine in engines.items()}
    for arm in engines:
        if arm != STOCK:
            verified.alone[arm] = compare(alone[STOCK], alone[arm], dtype)
            verified.together[arm] = compare(together[STOCK], together[arm], dtype)
    verified.itself = compare(alone[STOCK], together[STOCK], dtype)


def _time(verified: Verified, engines: dict[str, Child], batch: Batch, budget: Budget) -> None:
    """Sample a batch in every engine in turns, in stock twice (A/A)."""
    arms = [*engines, STOCK]
    series = Series([], [], pairs=[(0, n) for n in range(1, len(arms))])
    for n, arm in enumerate(arms):
        cell = Cell("end_to_end", "prefill", "vLLM", arm, 0, 0, None, "captured", (("batch", batch.name),))
        series.results.append(Result(cell, batch.name, Status.OK, control=n == len(engines)))
        series.steps.append(Step(lambda arm=arm: engines[arm].ask("run_us", batch.prompts)))  # type: ignore[misc]
    sample(series, ReplyTimer(), budget, verified.config.seed, monitor=clocks.for_device(device.kind()))
    verified.results += series.results
    first, *_ = pulled = figures.pull_in(series.results)
    for result, of_contrast in zip(series.results, pulled, strict=True):
        arm = "stock again (A/A)" if result.control else result.cell.arm
        contrast = Contrast(batch.name, len(batch.prompts), arm, None, None, result.reason)
        if first.samples_us and result.samples_us:
            contrast.us, contrast.reason = stats.median_interval(result.samples_us).median, None
            if of_contrast is not first:
                n = min(len(first.samples_us), len(result.samples_us))
                pair = first.samples_us[:n], of_contrast.samples_us[:n]
                contrast.difference = stats.paired_difference(*pair)
        verified.contrasts.append(contrast)
