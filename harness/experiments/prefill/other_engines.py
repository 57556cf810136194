"""The same prefill in engines that differ in one option: block size, FlashAttention version, backend.

These options are fixed when an engine starts, so every variant is an engine in its own process. All are up at
once, one prefills at a time, and every round runs all of them in a new random order, so that drift affects
all alike. The baseline runs in two engines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from harness import batch
from harness.analysis.other_engines import AGAIN, BASELINE, Variant, setting
from harness.engine import inengine
from harness.engine.child import Child, EngineFailed
from harness.engine.engine import Prompts
from harness.engine.inengine import ArmFacts, ArmsFacts, Outcome, prefilling
from harness.engine.options import environment, kv_cache_space
from harness.experiments.prefill.end_to_end import PrefillTimer
from harness.experiments.prefill.options import RunConfig
from harness.experiments.prefill.replaying import Replaying
from harness.measure import timers
from harness.measure.sampler import Series
from harness.models import ModelSource
from harness.running.recorder import Recorder
from harness.runs.record import Cell, Result, Status
from harness.runs.schema import EngineSettings, VariantRecord
from harness.units import ELEMENT_BYTES

SERIES = "variants"
ARMS = ("engine", "paged", "dense", "no_write")
# The option that lists the values, and the engine option that it varies.
LISTED_BY = {
    "block_sizes": "block_size",
    "flash_attn_versions": "flash_attn_version",
    "attention_backends": "attention_backend",
    "cudagraph_modes": "cudagraph_mode",
}


def list_variants(config: RunConfig, settings: Mapping[str, Any]) -> list[Variant]:
    """The variants that the configuration lists, without the values that the main engine already has.

    Args:
        settings: the main engine's, for options left to vLLM's choice.
    """
    listed = [
        Variant(option, value.upper() if isinstance(value, str) else value)
        for name, option in LISTED_BY.items()
        for value in getattr(config, name) or []
    ]
    return [variant for variant in listed if variant.value != setting(settings, variant.option)]


def with_variant(config: RunConfig, variant: Variant | None) -> RunConfig:
    """The main job's configuration with the variant's one option changed."""
    return config.model_copy(update={variant.option: variant.value}) if variant else config


def kv_cache_bytes(config: RunConfig, source: ModelSource, dtype: str, largest_block: int) -> int:
    """Bytes of KV cache that hold the prompts twice, in blocks of any of the variants' sizes."""
    # Any request's last block may hold a single token.
    tokens = batch.num_tokens(config.requests) + (len(config.requests) + 1) * largest_block
    return 2 * tokens * source.room_per_token(ELEMENT_BYTES.get(dtype, 2))


def measure(source: ModelSource, prompts: Prompts, replaying: Replaying, recorder: Recorder) -> None:
    """Time the requested variants, once the main engine is closed.

    Args:
        source: materialised; all engines load the same files.
    """
    config, engine = replaying.config, recorder.record.engine
    if SERIES in recorder.finished or all(getattr(config, name) is None for name in LISTED_BY):
        return
    assert engine is not None
    variants = list_variants(config, engine.to_json())
    if not variants:
        recorder.notice("no other engines: all requested values are what vLLM chose for the main engine")
        return
    count = len(variants) + 2
    recorder.notice(
        f"{count} more engines side by side: the main configuration twice and "
        f"{', '.join(variant.name for variant in variants)}; sampled for up to another "
        f"{replaying.seconds:g} s"
    )
    shared = config.model_copy(update={"gpu_memory_utilization": config.gpu_memory_utilization / count})
    largest = max([engine.block_size or 0, *(config.block_sizes or [])])
    cache = kv_cache_bytes(config, source, engine.dtype or "", largest)
    # Several engines are up, but the environment's VLLM_CPU_KVCACHE_SPACE is for one.
    with environment(kv_cache_space(cache)), ExitStack() as closing:
        engines = _Engines(prompts, recorder, closing)
        with recorder.bar("starting engines", count) as bar:
            for member in [Member(None), Member(None, control=True), *map(Member, variants)]:
                engines.add(member, shared, source, cache)
                bar.update()
        budget = replaying.budget(1, 1.0)
        with replaying.rounds_bar("engines", budget) as on_round:
            # Every arm has already run.
            series, seed = engines.series, config.seed
            replaying.sample(series, PrefillTimer(replaying.monitor), budget, seed, on_round)


@dataclass(frozen=True)
class Member:
    """One of the engines side by side."""

    variant: Variant | None  # None: the baseline
    control: bool = False  # the baseline a second time (A/A)

    @property
    def name(self) -> str:
        """As in summary.json."""
        return self.variant.name if self.variant else AGAIN if self.control else BASELINE

    def cell(self, arm: ArmFacts, vllm: str, block_size: int) -> Cell:
        """Of one arm of the engine."""
        variant = self.variant.name if self.variant else BASELINE
        return Cell(
            stage="variant",
            kernel="prefill",
            provider=f"vLLM {vllm}",
            arm=arm.name,
            spread_k=arm.spread_k,
            block_size=block_size,
            layer=None,
            data="captured",
            variant=variant,
        )


class _Engines:
    """Starts engines one by one, checks each against the first, and makes one series of their arms."""

    def __init__(self, prompts: Prompts, recorder: Recorder, closing: ExitStack) -> None:
        self.prompts, self.recorder, self.closing = prompts, recorder, closing
        self.series = Series([], [])
        self.settings: EngineSettings | None = None  # of the first engine
        self.expected: Outcome | None = None  # of the first engine, untouched
        self.no_baseline: EngineFailed | None = None  # why the first engine cannot be compared with

    def add(self, member: Member, config: RunConfig, source: ModelSource, cache: int) -> None:
        """Start an engine and add its arms to the series, each ready or with the reason why it is not.

        Args:
            config: the baseline's.
            cache: bytes of the engine's KV cache.
        """
        own = with_variant(config, member.variant)
        try:
            if self.no_baseline is not None:
                reason = f"nothing to compare with: the baseline's engine failed: {self.no_baseline}"
                raise EngineFailed(self.no_baseline.status, reason)
            spec = replace(own.engine(), kv_cache_bytes=cache)
            engine = Child(prefilling, spec, source, own.requests, own.seed)
            self.closing.callback(engine.close)
            self._admit(member, engine)
        except EngineFailed as error:
            if member == Member(None):
                self.no_baseline = error
            self.recorder.notice(f"{member.name}: {error}")
            for name in ARMS:
                self._append(member, _unknown(name), own.block_size or 0, error)

    def _admit(self, member: Member, engine: Child) -> None:
        """Add a started engine's arms; if none can run, close it and raise EngineFailed."""
        facts: ArmsFacts = engine.facts
        variant = member.variant
        with self._update_record(member) as noted:
            noted.settings, noted.start_s = facts.settings, round(facts.start_s, 1)
        try:
            if variant and (problem := variant.objection(facts.settings.to_json())):
                raise EngineFailed(Status.UNSUPPORTED, problem)
            untouched = self._outcome(engine, "engine")
            self.settings, self.expected = self.settings or facts.settings, self.expected or untouched
            with self._update_record(member) as noted:
                noted.logits_error = inengine.difference(untouched, self.expected)
            if problem := inengine.objection(untouched, self.expected, untouched):
                raise EngineFailed(Status.WRONG_OUTPUT, problem)
        except EngineFailed:
            engine.close()  # to free its memory for the others
            raise
        own, first = facts.settings.to_json(), self.settings.to_json()
        differs = variant.also_differs(own, first) if variant else None
        outcomes = {"engine": untouched}
        for name in ARMS:
            arm, size = facts.arms.get(name, _unknown(name)), facts.block_size
            try:
                self._check(engine, arm, outcomes)
            except EngineFailed as error:
                self.recorder.notice(f"{member.name}, {name}: {error}")
                self._append(member, arm, size, error)
            else:
                step = timers.Step(lambda name=name: engine.ask("prefill", self.prompts, name))  # type: ignore[misc]
                self._append(member, arm, size, step, "; ".join(filter(None, [arm.remark, differs])))

    def _check(self, engine: Child, arm: ArmFacts, outcomes: dict[str, Outcome]) -> None:
        """Run an arm once; raises EngineFailed if it cannot run or differs from the untouched engine."""
        if arm.name not in engine.facts.arms:
            raise EngineFailed(Status.UNSUPPORTED, engine.facts.not_steered or "the engine has no such arm")
        if arm.unsupported:
            raise EngineFailed(Status.UNSUPPORTED, arm.unsupported)
        if arm.name not in outcomes:
            outcomes[arm.name] = self._outcome(engine, arm.name)
        got = outcomes[arm.name]
        twin = "engine" if arm.same_kernel_as == "paged" else arm.same_kernel_as
        if problem := inengine.objection(got, outcomes["engine"], outcomes.get(twin, got)):
            raise EngineFailed(Status.WRONG_OUTPUT, problem)

    def _outcome(self, engine: Child, arm: str) -> Outcome:
        logits, tokens = engine.ask("outcome", self.prompts, arm)
        return Outcome(torch.from_numpy(logits), tokens)

    def _append(
        self,
        member: Member,
        arm: ArmFacts,
        block_size: int,
        how: timers.Step | EngineFailed,
        remark: str = "",
    ) -> None:
        """Add an arm to the series: its step, or why it has none."""
        cell = member.cell(arm, self.recorder.record.versions["vllm"] or "", block_size)
        if isinstance(how, EngineFailed):
            result, step = Result(cell, SERIES, how.status, str(how), control=member.control), None
        else:
            result, step = Result(cell, SERIES, Status.OK, remark or None, control=member.control), how
        self.series.results.append(result)
        self.series.steps.append(step)

    @contextmanager
    def _update_record(self, member: Member) -> Iterator[VariantRecord]:
        """Set fields of this engine's entry in the record inside the block."""
        noted = self.recorder.record.variants or {}
        of_member = noted.get(member.name, VariantRecord())
        yield of_member
        with self.recorder.update_record() as record:
            record.variants = noted | {member.name: of_member}


def _unknown(arm: str) -> ArmFacts:
    """An arm that the engine lacks, or whose engine failed."""
    return ArmFacts(arm, spread_k=1, same_kernel_as=arm, remark=None)
