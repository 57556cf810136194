"""Generation: requests from prompt to last token, several at once, every step timed."""

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
    """The result for prompts prefilled in one step; lists are in the prompts' order."""

    tokens: list[list[int]]  # generated, greedily
    cached_tokens: list[int]  # for each prompt, how many came from the prefix cache, as vLLM counts
    seconds: float  # of the engine's steps


def complete(
    engine: Engine,
    prompts: Prompts,
    output_len: int = 1,
    on_step: Callable[[], object] = lambda: None,
) -> Completed:
    """Prefill the prompts in one step and generate `output_len` tokens for each.

    Args:
        engine: must take them all at once (max_num_seqs, max_num_batched_tokens).
        on_step: called after every step, untimed; the last step releases the requests' blocks.

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
    """Run prompts of these lengths, alone and `at_once` together, so that compilation and allocation happen
    here.
    """
    for length in lengths:
        for count in sorted({1, at_once}):
            complete(engine, [[1 + n % 7 for n in range(length)]] * count)


@dataclass(frozen=True)
class Step:
    """One step of an engine, or of a model that generates."""

    seconds: float
    decoding: bool  # every prompt already had its first token and got another
    cache_bytes: int  # K and V in use after it, in whole blocks where paged
    memory_bytes: int  # of the process after it, see measure.memory


@dataclass(frozen=True)
class Generated:
    """The result for prompts that ran together."""

    tokens: tuple[tuple[int, ...], ...]  # greedily, of each prompt
    steps: tuple[Step, ...]
    start_bytes: int  # of the process before the first step, see measure.memory
    peak_bytes: int  # the peak from then on

    @property
    def seconds(self) -> float:
        """Seconds of all steps."""
        return sum(step.seconds for step in self.steps)

    @property
    def decode_seconds(self) -> float:
        """Seconds of the steps in which every prompt was decoding."""
        return sum(step.seconds for step in self.steps if step.decoding)


class Generating:
    """A generating engine with every step timed: the object behind a child process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._device = device.kind()

    def facts(self) -> EngineFacts:
        """Of the engine."""
        return self.engine.facts()

    def generate(self, prompts: Prompts, output_len: int) -> Generated:
        """Prefill the prompts, then take `output_len` - 1 steps, each of which gives every prompt a token.

        Prompts of more than max_num_batched_tokens together take several steps, as vLLM cuts them. Prompts
        that finish first decode meanwhile, in steps that do not count as decoding.

        Args:
            prompts: all must fit the KV cache at once.
        """
        # One more than needed: a request that ends releases its blocks before they are counted.
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
        """Logits of the first token after a prompt, float32, [vocabulary]."""
        with self.engine.ranks.during("observing_logits") as seen:
            self.generate([prompt], 1)
        logits: FirstLogits = seen[0][-1][0].float().numpy()
        return logits

    def capture(self, prompts: Prompts, path: Path) -> None:
        """Prefill the prompts and write the first attention layer's call, of all steps together, to a file.

        Only for eager engines: a replayed CUDA graph, as for one-token prompts, bypasses the hook.

        Raises:
            CaptureError: this kind of layer cannot be captured, or some prompts were not seen.
        """
        from patches.attention import AttentionHook

        rank = self.engine.ranks.only
        name, layer = next(iter(rank.layers.items()))
        if reason := rank.kinds.not_steered(max(map(len, prompts))).get(name):
            raise CaptureError(f"{name}: {reason}")
        steps: list[AttentionCall] = []

        def observe(layer: Any, *given: Any) -> None:
            steps.append(joined_call.part(from_engine(0, layer, *given)))

        with AttentionHook({name: layer}).observing(observe):
            self.generate(prompts, 1)
        call = joined_call.of_steps(steps) if steps else None
        if call is None or sorted(call.lengths) != sorted(map(len, prompts)):
            raise CaptureError(f"{name}: some prompts were not seen in the attention calls")
        save(call, path)

    def _prefill_steps(self, prompts: Prompts) -> int:
        """An upper bound on the steps until every prompt has its first token."""
        return prefill_steps(sum(map(len, prompts)), self.engine.settings.max_num_batched_tokens or 1)


def blocks_needed(prompt_len: int, output_len: int, block_size: int, steps: int) -> int:
    """Blocks of one prompt of `Generating.generate`; `steps`: see batch.prefill_steps."""
    extra = 0 if output_len == 1 else output_len + steps
    return layout.num_blocks(prompt_len + extra, block_size)


@contextmanager
def generating(spec: EngineSpec, source: ModelSource) -> Iterator[Generating]:
    """For `Child`: start an engine and yield it."""
    with Engine(spec, source) as engine:
        yield Generating(engine)
