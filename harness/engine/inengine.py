"""In-engine arms: ways of running the same prefill inside vLLM, switched between prefills."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from harness import batch, layout
from harness.config.engine import EngineSpec
from harness.engine.engine import Engine, EngineFacts, Prefill, Prompts
from harness.kernels import overrides
from harness.measure.timers import CYCLES_PER_SECOND
from harness.models import ModelSource
from patches.steering import Override

LOGITS_TOLERANCE = 0.05  # relative, of the logits' spread; bfloat16 noise through all layers is under 2%


@dataclass(frozen=True)
class InEngineArm:
    """One way of running the prefill."""

    name: str  # as in record.Cell.arm
    spread_k: int
    override: Override | None  # None: vLLM untouched
    block_ids: Sequence[Sequence[int]] | None  # for each request; None: as vLLM allocates them
    control: bool = False
    same_kernel_as: str = "paged"  # the arm whose logits must be equal bit for bit
    remark: str | None = None
    unsupported: str | None = None  # why it cannot run in this engine


def arms(
    engine: Engine,
    plans: Mapping[int, Sequence[Sequence[int]]],
    natural_k: int,
    spin_us: float | None,
    longest: int,
    *,
    with_placebo: bool = False,
) -> list[InEngineArm]:
    """All arms of one engine: the sweep over layouts, and the overrides.

    Args:
        plans: each request's block ids by spread_k; 1 is among them.
        natural_k: spread_k of what vLLM allocates by itself.
        spin_us: roughly how long "spin" delays the GPU before each layer's attention; None: no GPU.
        longest: tokens of the longest prompt.
        with_placebo: whether to add one segment at another place of the pool, which should cost nothing.
    """
    one_segment, most = plans[1], max(plans)
    as_is = Override("paged")
    remarks = [overrides.dense_remark(engine.about.backends), _as_in_vllm(engine, longest)]
    remark = "; ".join(filter(None, remarks)) or None
    all_arms = [
        InEngineArm("engine", natural_k, None, None),
        InEngineArm("wrapped", natural_k, as_is, None),  # like "engine", but through the other arms' wrappers
    ]
    all_arms += [InEngineArm("paged", k, as_is, plans[k]) for k in plans]
    all_arms.append(InEngineArm("paged", 1, as_is, one_segment, control=True))
    if with_placebo:
        elsewhere = _elsewhere(engine, plans)
        no_room = None if elsewhere else "the pool has no room for the prompts' blocks at a third place"
        all_arms.append(InEngineArm("placebo", 1, as_is, elsewhere, unsupported=no_room))
    in_kernel = [
        InEngineArm("dense", 1, Override("dense"), one_segment, same_kernel_as="dense", remark=remark),
        InEngineArm(
            "no_write",
            1,
            Override("dense", write_cache=False),
            one_segment,
            same_kernel_as="dense",
            remark=remark,
        ),
        InEngineArm("compact", most, Override("compact"), plans[most], same_kernel_as="dense"),
    ]
    if spin_us is not None:
        cycles = max(1, int(spin_us * 1e-6 * CYCLES_PER_SECOND))
        in_kernel += [
            InEngineArm("spin_0", 1, replace(as_is, ahead=partial(torch.cuda._sleep, 1)), one_segment),
            InEngineArm("spin", 1, replace(as_is, ahead=partial(torch.cuda._sleep, cycles)), one_segment),
        ]
    return all_arms + [replace(arm, unsupported=_no_override(engine, longest)) for arm in in_kernel]


def _elsewhere(engine: Engine, plans: Mapping[int, Sequence[Sequence[int]]]) -> list[list[int]] | None:
    """Each request's block ids in one segment that shares no block with any of the plans; None: no room."""
    taken = {block for of_k in plans.values() for ids in of_k for block in ids}
    free = [block for block in engine.free_block_ids() if block not in taken]
    blocks = [len(ids) for ids in plans[1]]
    try:
        return layout.plan_batch(blocks, [1] * len(blocks), free)
    except layout.LayoutError:
        return None


def _as_in_vllm(engine: Engine, longest: int) -> str | None:
    """A remark on the layers that overrides leave as they are in vLLM, or None."""
    left_out, layers = len(engine.about.kinds.not_steered(longest)), len(engine.about.layers)
    return f"{left_out} of {layers} layers run attention as in vLLM, as the notes say" if left_out else None


def _no_override(engine: Engine, longest: int) -> str | None:
    """Why the call of attention's kernel cannot be overridden, or None."""
    reasons = engine.about.kinds.not_steered(longest)
    if len(reasons) == len(engine.about.layers):
        return f"no layer's attention can be overridden: {'; '.join(dict.fromkeys(reasons.values()))}"
    if engine.settings.cudagraph_mode == "FULL":
        return "attention is inside the CUDA graph, where nothing can be overridden"
    if not engine.about.no_override:
        return None
    unknown, known = ", ".join(engine.about.no_override), ", ".join(overrides.BACKEND_KERNELS)
    return f"how {unknown} calls its kernel is not known, so it cannot be overridden; known are {known}"


@dataclass(frozen=True)
class Outcome:
    """The outcome of a prefill."""

    logits: torch.Tensor  # [requests, vocabulary], what the first tokens were sampled from
    tokens: tuple[int, ...]


def objection(
    got: Outcome, engines: Outcome, twin: Outcome, tolerance: float = LOGITS_TOLERANCE
) -> str | None:
    """Why an arm's outcome is wrong, or None.

    Args:
        engines: the outcome of unmodified vLLM, which it must equal within the noise of its data type.
        twin: the outcome of an arm with the same kernel, which it must equal bit for bit.
        tolerance: of `difference`.
    """
    if not torch.equal(got.logits, twin.logits):
        different = float((got.logits != twin.logits).float().mean())
        return (
            f"{different:.2%} of the logits differ from those of the same kernel, which should be identical"
        )
    error = difference(got, engines)
    if not error <= tolerance:  # nan too
        return f"the logits differ by {error:.2g} of their spread, {tolerance:.2g} allowed"
    noise = 2 * (got.logits.float() - engines.logits.float()).abs().amax(1)
    for row, (ours, theirs) in enumerate(zip(got.tokens, engines.tokens, strict=True)):
        lead = float(engines.logits[row, theirs] - engines.logits[row, ours])
        if lead > noise[row]:  # a tie within the noise may go either way
            return f"first token {ours}, not {theirs}, which leads by {lead:.3g}"
    return None


def difference(got: Outcome, expected: Outcome) -> float:
    """Root mean square of the logits' difference over the expected logits' standard deviation, for the worst
    request.
    """
    ours, theirs = got.logits.float(), expected.logits.float()
    off = (ours - theirs).square().mean(1).sqrt()
    return float((off / theirs.std(1).clamp_min(1e-12)).max())


@dataclass(frozen=True)
class ArmFacts:
    """An arm as known outside the engine's process; see InEngineArm."""

    name: str
    spread_k: int
    same_kernel_as: str
    remark: str | None
    unsupported: str | None = None


@dataclass(frozen=True)
class ArmsFacts(EngineFacts):
    """What an engine with arms reports about itself."""

    arms: dict[str, ArmFacts]  # by name
    not_steered: str | None  # why there are only the arms "engine" and "paged"


class Prefilling:
    """An engine's arms, behind a child process: prefills of the same prompts.

    Not for tensor parallelism: the arms need the engine's layers in the process they run in.
    """

    def __init__(self, engine: Engine, requests: batch.Batch, seed: int) -> None:
        self.engine = engine
        blocks = batch.blocks(requests, engine.block_size)
        one_segment = layout.plan_batch(blocks, [1] * len(blocks), engine.free_block_ids(), seed=seed)
        lengths = [request.length for request in requests]
        natural_k = max(map(layout.spread_k, engine.next_block_ids(lengths)))
        if engine.about.not_steered is None:
            chosen = arms(engine, {1: one_segment}, natural_k, None, max(lengths))
        else:
            untouched = InEngineArm("engine", natural_k, None, None)
            chosen = [untouched, InEngineArm("paged", 1, None, one_segment)]
        self.arms = {arm.name: arm for arm in chosen if not arm.control}

    def facts(self) -> ArmsFacts:
        """Of the engine and its arms."""
        known = {
            name: ArmFacts(arm.name, arm.spread_k, arm.same_kernel_as, arm.remark, arm.unsupported)
            for name, arm in self.arms.items()
        }
        return ArmsFacts(**vars(self.engine.facts()), arms=known, not_steered=self.engine.about.not_steered)

    def prefill(self, prompts: Prompts, name: str) -> Prefill:
        """Prefill the prompts once in one arm."""
        arm = self.arms[name]
        return self.engine.prefill(prompts, arm.block_ids, arm.override)

    def outcome(self, prompts: Prompts, name: str) -> tuple[npt.NDArray[np.float32], tuple[int, ...]]:
        """Logits, [requests, vocabulary] in float32, and first tokens of a prefill."""
        with self.engine.ranks.during("observing_logits") as seen:
            done = self.prefill(prompts, name)
        return seen[0][-1].float().numpy(), done.first_tokens


@contextmanager
def prefilling(
    spec: EngineSpec, source: ModelSource, requests: batch.Batch, seed: int
) -> Iterator[Prefilling]:
    """For `Child`: start an engine and yield it."""
    with Engine(spec, source) as engine:
        yield Prefilling(engine, requests, seed)
