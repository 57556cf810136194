"""How much time does a warm prefix cache save a prefill when it holds a share of the prompt?"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from harness import layout, models, prompt
from harness.engine import inengine
from harness.engine.engine import Engine, check_backend
from harness.engine.generation import Completed, complete, warm_up
from harness.engine.inengine import Outcome
from harness.engine.options import EngineError, check_vllm
from harness.experiments import views
from harness.experiments.cache.options import CacheConfig
from harness.experiments.prefill.end_to_end import PrefillTimer
from harness.measure.budget import Budget
from harness.measure.sampler import Series
from harness.measure.timers import Step
from harness.models import ModelSource
from harness.prompt import PromptError
from harness.running.recorder import Recorder, recording
from harness.running.sampling import Sampling
from harness.runs.record import Cell, Result, Status
from harness.runs.schema import ComparedOutput, Model

TRIES = 20  # so that each prompt of a batch begins differently
ARMS = (("reset", False), ("warm", False), ("reset", True))  # name, whether it is the control (A/A)


def run(config: CacheConfig, source: ModelSource) -> None:
    """Run the experiment, leaving a run directory; raises as `recording` does."""
    check_vllm(source, config.attention_backend)  # a refusal leaves no run behind
    recording(config, source.name, partial(measure, source=source), views.write, source.notices)


def measure(config: CacheConfig, recorder: Recorder, source: ModelSource) -> None:
    """For every share: compare outputs, then sample a series of single prompts and one of batches."""
    assert config.length is not None
    source = models.materialise(source, config.seed)
    (ids,), origin = prompt.token_ids(source, [max(8 * config.length, 4096)], None, config.seed)
    with recorder.update_record() as record:
        record.prompt = origin
    recorder.say(f"starting vLLM for {source.name} ...")
    with torch.inference_mode(), Engine(config.engine(), source) as engine:
        with recorder.update_record() as record:
            record.engine, record.engine_start_s = engine.settings, round(engine.start_s, 1)
            record.model = Model(name=record.model.name, weights=source.weights)
        recorder.say(f"engine up after {engine.start_s:.0f} s")
        check_backend(config.attention_backend, engine.about.backends)
        check_room(config, engine)
        lengths = sorted({1, -(-config.length // 4), config.length})
        warm_up(engine, lengths, config.prompts)
        texts = Texts(np.array(ids), config.length, engine.block_size, config.seed)
        Job(config, recorder, source, engine, texts).run()


def check_room(config: CacheConfig, engine: Engine) -> None:
    """Raise EngineError unless the pool holds a batch besides the prompts that warmed the cache for it."""
    block_size = engine.block_size
    each = layout.num_blocks((config.length or 0) + config.output_len, block_size)
    needed, free = 2 * config.prompts * each, engine.blocks_in_pool
    if free < needed:
        raise EngineError(
            f"the KV cache has {free} free blocks, {needed} are needed (twice {config.prompts} prompts of "
            f"{each}); raise --gpu-memory-utilization, or on a CPU the environment's VLLM_CPU_KVCACHE_SPACE "
            "(GiB), or lower --prompts"
        )


@dataclass(frozen=True)
class Texts:
    """Pairs of prompts that share a beginning, determined by the seed."""

    ids: npt.NDArray[np.int64]  # the source of the prompts, repeated cyclically
    length: int
    block_size: int
    seed: int

    def pair(self, share: int, index: int) -> tuple[list[int], list[int]]:
        """A prompt, and another of the same length with the same first `share` percent.

        The next token differs. Another index gives other prompts.
        """
        rng = np.random.default_rng((self.seed, share, index))
        shared = self.length * share // 100
        asked = self._slice(int(rng.integers(len(self.ids))), self.length)
        if shared == self.length:
            return asked, asked
        return asked, asked[:shared] + self._beginning_unlike(asked[shared], self.length - shared, rng)

    def batch(self, share: int, number: int, count: int) -> list[tuple[list[int], list[int], list[int]]]:
        """`count` pairs, each with a prompt that shares nothing with it, no two with the same beginning, as
        they would share cached blocks.

        Another number gives other prompts. Raises PromptError if the text has too few different beginnings.
        """
        pairs: list[tuple[list[int], list[int], list[int]]] = []
        taken: set[tuple[int, ...]] = set()
        for index in range(number * TRIES * count, (number + 1) * TRIES * count):
            asked, other = self.pair(share, index)
            rng = np.random.default_rng((self.seed, share, index, 1))
            unlike = self._beginning_unlike(asked[0], self.length, rng)
            begins = {tuple(each[: self.block_size]) for each in (asked, other, unlike)}
            if not begins & taken:
                pairs.append((asked, other, unlike))
                taken |= begins
            if len(pairs) == count:
                return pairs
        raise PromptError(f"--prompts {count}: the text has too few different beginnings; lower it")

    def expected(self, share: int) -> int:
        """Tokens of a prompt that vLLM should find in the cache: whole blocks, and never the last token."""
        shared = self.length * share // 100
        return min(shared, self.length - 1) // self.block_size * self.block_size

    def _beginning_unlike(self, token: int, count: int, rng: np.random.Generator) -> list[int]:
        """`count` tokens of the text that begin with another one."""
        return self._slice(int(rng.choice(np.flatnonzero(self.ids != token))), count)

    def _slice(self, first: int, count: int) -> list[int]:
        ids: list[int] = self.ids.take(range(first, first + count), mode="wrap").tolist()
        return ids


@dataclass
class Arm:
    """Prefills with the cache in one state; the n-th call of each arm has the same prompts."""

    name: str  # "reset" or "warm"
    engine: Engine
    texts: Texts
    share: int
    batch_size: int
    calls: int = 0
    last: Completed | None = None
    reset_s: float = 0.0
    readings: dict[str, list[float]] = field(default_factory=dict)

    def run(self) -> Completed:
        """Bring the cache into the arm's state (untimed), then prefill the prompts.

        All arms prefill as many other prompts right before, so that they differ only in what these share.
        """
        batch = self.texts.batch(self.share, self.calls, self.batch_size)
        prompts, others, unlike = zip(*batch, strict=True)
        self.calls += 1
        self.reset_s = self.engine.reset_prefix_cache()
        complete(self.engine, others if self.name == "warm" else unlike)
        self.last = complete(self.engine, prompts)
        return self.last

    def read(self, baseline: Arm) -> None:
        """Record the last call's counts."""
        assert self.last is not None
        assert baseline.last is not None
        tokens = self.texts.length * self.batch_size
        changed = sum(
            ours != theirs for ours, theirs in zip(self.last.tokens, baseline.last.tokens, strict=True)
        )
        expected = self.batch_size * self.texts.expected(self.share) if self.name == "warm" else 0
        for name, value in (
            ("cached_tokens", sum(self.last.cached_tokens)),
            ("hit_rate_pct", 100 * sum(self.last.cached_tokens) / tokens),
            ("expected_rate_pct", 100 * expected / tokens),
            ("changed_first_tokens", changed),
            ("reset_us", 1e6 * self.reset_s),
        ):
            self.readings.setdefault(name, []).append(float(value))


class Job:
    """All shares in one engine."""

    def __init__(
        self,
        config: CacheConfig,
        recorder: Recorder,
        source: ModelSource,
        engine: Engine,
        texts: Texts,
    ) -> None:
        self.config, self.recorder, self.source = config, recorder, source
        self.engine, self.texts = engine, texts
        self.sampling = Sampling(config, recorder)

    def run(self) -> None:
        """Finish what an earlier run left undone."""
        sizes = sorted({1, self.config.prompts})
        todo = [
            (share, size)
            for share in self.config.shares
            for size in sizes
            if series_name(share, size) not in self.recorder.finished
        ]
        budget = self.sampling.budget(sum(size for _, size in todo), 1.0)
        with self.recorder.bar("series", len(todo)) as bar:
            for share, size in todo:
                bar.set_postfix_str(f"{share}% shared, batch of {size}")
                self._measure(share, size, self._objection(share), budget)
                bar.update()
        self.sampling.note_limits(0)

    def _measure(self, share: int, size: int, objection: str | None, budget: Budget) -> None:
        name = series_name(share, size)
        arms = [Arm(arm, self.engine, self.texts, share, size) for arm, _ in ARMS]
        series = Series([], [], pairs=[(0, 1), (0, 2)])
        for arm, (_, control) in zip(arms, ARMS, strict=True):
            cell = self._cell(arm.name, share, size)
            series.results.append(Result(cell, name, Status.OK, control=control, readings=arm.readings))
            series.steps.append(Step(arm.run))
        if objection:
            series.fail(1, Status.WRONG_OUTPUT, objection)

        def on_round() -> None:
            for n in series.ready():
                arms[n].read(arms[0])

        # Warm-up ran every shape of the work; on a CPU a round takes seconds.
        seed = self.config.seed + 1000 * share + size
        self.sampling.sample(series, PrefillTimer(self.sampling.monitor), budget, seed, on_round, weight=size)

    def _cell(self, arm: str, share: int, size: int) -> Cell:
        provider = f"vLLM {self.recorder.record.versions['vllm']}"
        point = (("share_pct", share), ("batch_size", size))
        return Cell("end_to_end", "prefill", provider, arm, 0, self.texts.block_size, None, "captured", point)

    def _objection(self, share: int) -> str | None:
        """What is wrong with the outputs from a warm cache, or None; they are recorded once for each
        share.
        """
        outputs = self.recorder.record.outputs or {}
        if str(share) not in outputs:
            outputs |= {str(share): [self._compare(share, n) for n in range(self.config.prompts)]}
            with self.recorder.update_record() as record:
                record.outputs = outputs
        objection = next((each.objection for each in outputs[str(share)] if each.objection), None)
        if objection:
            self.recorder.notice(f"{share}% shared: {objection}")
        return objection

    def _compare(self, share: int, index: int) -> ComparedOutput:
        """Compare one prompt's tokens and logits after a reset and from a warm cache."""
        asked, other = self.texts.pair(share, index)
        outcomes, tokens = [], []
        for earlier in ([], [other]):
            self.engine.reset_prefix_cache()
            for each in earlier:
                complete(self.engine, [each])
            with self.engine.ranks.during("observing_logits") as seen:
                done = complete(self.engine, [asked], self.config.output_len)
            tokens.append(done.tokens[0])
            outcomes.append(Outcome(seen[0][0], (done.tokens[0][0],)))
        reset, warm = outcomes
        return ComparedOutput(
            reset=list(tokens[0]),
            warm=list(tokens[1]),
            reset_text=prompt.decode(self.source, tokens[0]),
            warm_text=prompt.decode(self.source, tokens[1]),
            logits_error=inengine.difference(warm, reset),
            objection=inengine.objection(warm, reset, warm),
        )


def series_name(share: int, batch_size: int) -> str:
    """The series of one share's arms."""
    return f"share={share} batch={batch_size}"
