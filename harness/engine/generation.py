"""Requests from their prompts to their last token, several at once, every step timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness import device, layout
from harness.batch import prefill_steps
from harness.calls import joined_call
from harness.calls.capture import AttentionCall, CaptureError, from_engine, save
from harness.config.engine import EngineSpec
from harness.engine.engine import Engine, EngineFacts, Prompts, several_steps
from harness.measure import memory
from harness.models import ModelSource

FirstLogits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Completed:
    """What prompts that were prefilled in one step came to, each list in their order."""

    tokens: list[list[int]]  # generated, greedily
    cached_tokens: list[int]  # of each prompt, how many came out of the prefix cache: vLLM's own count
    seconds: float  # of the engine's steps


def complete(
    engine: Engine,
    prompts: Prompts,
    output_len: int = 1,
    on_step: Callable[[], object] = lambda: None,
) -> Completed:
    """Prefill the prompts in one step and generate `output_len` tokens for each.

    Args:
        engine: one that takes so many at once (max_num_seqs, max_num_batched_tokens).
        on_step: called after every step, untimed; what its requests hold is released in the last one.

    Raises:
        EngineError: the prompts took more than one step.
    """
    done = []
    with closing(engine.steps(prompts, output_len)) as steps:
        for step in steps:
            done.append(step)
            on_step()
    if len(done) != output_len:
        raise several_steps(prompts)
    tokens = [list(ids) for ids in done[-1].tokens]
    return Completed(tokens, done[-1].cached_tokens, sum(step.seconds for step in done))


def warm_up(engine: Engine, lengths: Sequence[int], at_once: int) -> None:
    """Run prompts of these lengths, alone and `at_once` together: what compiles or allocates does it here."""
    for length in lengths:
        for count in sorted({1, at_once}):
            complete(engine, [[1 + n % 7 for n in range(length)]] * count)


@dataclass(frozen=True)
class Step:
    """One step of an engine, or of a model that generates."""

    seconds: float
    decoding: bool  # every prompt had its first token before and got another one
    cache_bytes: int  # of K and V that are in use after it, whole blocks where they are paged
    memory_bytes: int  # of the process after it, see measure.memory


@dataclass(frozen=True)
class Generated:
    """What prompts that ran side by side came to."""

    tokens: tuple[tuple[int, ...], ...]  # greedily, of each prompt
    steps: tuple[Step, ...]
    start_bytes: int  # of the process ahead of the first step, see measure.memory
    peak_bytes: int  # the most from then on

    @property
    def seconds(self) -> float:
        """Of all steps."""
        return sum(step.seconds for step in self.steps)

    @property
    def decode_seconds(self) -> float:
        """Of the steps in which every prompt was decoding."""
        return sum(step.seconds for step in self.steps if step.decoding)


class Generating:
    """An engine that generates, every step timed; what a child process with one answers with."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._device = device.kind()

    def facts(self) -> EngineFacts:
        """Of the engine."""
        return self.engine.facts()

    def generate(self, prompts: Prompts, output_len: int) -> Generated:
        """Prefill the prompts, then take `output_len` - 1 steps in each of which every prompt gets a token.

        Prompts of more than max_num_batched_tokens together take several steps, as vLLM cuts them. Those
        that are through first decode meanwhile, in steps that do not count as decoding.

        Args:
            prompts: all must fit the KV cache at once.
        """
        # One more than is waited for: a request that ends gives its blocks back before they are counted.
        most = 1 if output_len == 1 else output_len + 1 + self._prefill_steps(prompts)
        counts, steps = [0] * len(prompts), list[Step]()
        memory.start_peak(self._device)
        start_bytes = memory.now_bytes(self._device)
        with closing(self.engine.steps(prompts, most)) as engine_steps:
            while min(counts) == 0 or sum(step.decoding for step in steps) < output_len - 1:
                step, before = next(engine_steps), counts
                counts = [len(ids) for ids in step.tokens]
                decoding = min(before) > 0 and all(
                    now > then for now, then in zip(counts, before, strict=True)
                )
                held = self.engine.cache_bytes(), memory.now_bytes(self._device)
                steps.append(Step(step.seconds, decoding, *held))
        tokens = tuple(ids[:output_len] for ids in step.tokens)
        return Generated(tokens, tuple(steps), start_bytes, memory.peak_bytes(self._device))

    def decode_us(self, prompts: Prompts, output_len: int) -> float:
        """Microseconds of the `output_len` - 1 decoding steps of `generate`."""
        return 1e6 * self.generate(prompts, output_len).decode_seconds

    def prefill_us(self, prompts: Prompts) -> float:
        """Microseconds until every prompt has its first token."""
        return 1e6 * self.generate(prompts, 1).seconds

    def first_logits(self, prompt: Sequence[int]) -> FirstLogits:
        """Logits that the first token after a prompt is chosen from, float32, [vocabulary]."""
        with self.engine.ranks.during("observing_logits") as seen:
            self.generate([prompt], 1)
        logits: FirstLogits = seen[0][-1][0].float().numpy()
        return logits

    def capture(self, prompts: Prompts, path: Path) -> None:
        """Prefill the prompts and write the first attention layer's call, of all steps together, to a file.

        Only for eager engines: a replayed CUDA graph, as of prompts of one token, passes by what looks on.

        Raises:
            CaptureError: the layer is of a kind that cannot be captured, or not all of the prompts were seen.
        """
        from patches.attention import AttentionTap

        name, layer = next(iter(self.engine.ranks.only.layers.items()))
        steps: list[AttentionCall] = []

        def observe(layer: Any, *given: Any) -> None:
            steps.append(joined_call.part(from_engine(0, layer, *given)))

        tap = AttentionTap({name: layer})
        if tap.out_of_scope:
            raise CaptureError(tap.out_of_scope[name])
        with tap.observing(observe):
            self.generate(prompts, 1)
        call = joined_call.of_steps(steps) if steps else None
        if call is None or sorted(call.lengths) != sorted(map(len, prompts)):
            raise CaptureError(f"{name}: not all of the prompts were seen in the attention's calls")
        save(call, path)

    def _prefill_steps(self, prompts: Prompts) -> int:
        """At most so many steps until every prompt has its first token."""
        return prefill_steps(sum(map(len, prompts)), self.engine.settings.max_num_batched_tokens or 1)


def blocks_needed(prompt_len: int, output_len: int, block_size: int, steps: int) -> int:
    """Blocks of one prompt of `Generating.generate`; `steps`: see batch.prefill_steps."""
    extra = 0 if output_len == 1 else output_len + steps
    return layout.num_blocks(prompt_len + extra, block_size)


@contextmanager
def generating(spec: EngineSpec, source: ModelSource) -> Iterator[Generating]:
    """For `Child`: an engine of its own."""
    with Engine(spec, source) as engine:
        yield Generating(engine)
