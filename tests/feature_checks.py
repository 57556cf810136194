"""One model through a real engine: captured, held against float32, replayed and steered.

`python -m tests.feature_checks NAME DIRECTORY [BACKEND]` does it for one of MODELS saved in DIRECTORY, as an
engine on a GPU wants a process of its own.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from harness import device, layout
from harness.engine import inengine, observing, prefills
from harness.engine.engine import Engine
from harness.engine.inengine import Outcome
from harness.kernels import PagedKV
from harness.replay.placement import Placement, readable
from harness.replay.series import Judge, Replay
from harness.runs.record import Result, Status
from tests.engines import inputs
from tests.feature_models import MODELS, VOCABULARY, Model

LENGTH, BLOCK_SIZE, SEGMENTS = 70, 32, 3
PROMPTS = [[(7 * n + n * n) % VOCABULARY for n in range(LENGTH)]]


def start(path: Path, dtype: str, backend: str | None = None) -> Engine:
    """An engine for the model in `path`."""
    options = {"dtype": dtype, "attention_backend": backend, "layers": "all"}
    spec, source = inputs(path, length=LENGTH, block_size=BLOCK_SIZE, **options)
    return Engine(replace(spec, kv_cache_bytes=2**30), source)


def check(model: Model, path: Path, backend: str | None = None) -> Counter[str]:
    """Assert what the model's capture, replay and steering must hold; returns its arms' statuses."""
    with torch.inference_mode(), start(path, model.dtype, backend) as engine:
        blocks = layout.num_blocks(LENGTH, BLOCK_SIZE)
        free = engine.free_block_ids()
        split = layout.plan(blocks, SEGMENTS, free[blocks : 4 * blocks], seed=1)
        plans = {1: [free[:blocks]], SEGMENTS: [split]}
        engine.prefill(PROMPTS, plans[1])
        base, _ = prefills.capture(engine, PROMPTS, plans[1], None)
        problems = prefills.check(engine, PROMPTS, plans[SEGMENTS], base)
        assert problems == [], problems
        rank = engine.ranks.only
        assert_captured(model, rank.captured)
        statuses = Counter(result.status.value for result in replayed(rank.captured, rank.checked))
        assert_steered(engine, plans)
    return statuses


def assert_captured(model: Model, captured: observing.Captured) -> None:
    """Every layer's capture says what the model is made of, and its output is right."""
    assert captured.skipped == {}
    assert len(captured.calls) == model.layers
    for call, window in zip(captured.calls.values(), model.windows, strict=True):
        shape = call.num_heads, call.num_kv_heads, call.head_dim
        assert shape == (model.heads, model.kv_heads, model.head_dim)
        assert str(call.query.dtype) == f"torch.{model.dtype}"
        assert call.causal
        assert call.sliding_window == window
        assert call.softcap == model.softcap
        assert abs(call.scale - (model.scale or model.head_dim**-0.5)) < 1e-6
        assert (call.alibi_slopes is not None) == model.alibi
        assert (call.sinks is not None) == model.sinks
        judge = Judge(call)
        error = judge.error_of(call.output)
        assert error < judge.tolerance, f"layer {call.layer}: {error:.3g}"


def replayed(captured: observing.Captured, checked: observing.Checked) -> Sequence[Result]:
    """All arms of every layer: right, or unsupported for a reason; those of the engine's kernel are right."""
    replay = Replay(device.kind(), gap="shuffled", sizes="even", seed=0)
    results = []
    for call in captured.calls.values():
        assert call.kv_cache is not None
        one_segment, split = (
            PagedKV(call.kv_cache, table) for table in (call.block_table, checked.tables[call.layer])
        )
        place = Placement(call, SEGMENTS, one_segment, split, readable(call, split))
        results += replay.series(place, with_synthetic=True).results
    for result in results:
        about = f"{result.cell.kernel} {result.cell.arm} {result.cell.data}: {result.status} {result.reason}"
        assert result.status in (Status.OK, Status.UNSUPPORTED), about
        assert (result.status is Status.OK) or result.reason, about
        engines = result.cell.provider.startswith("vLLM")
        assert not engines or result.status is Status.OK, about
    return results


def assert_steered(engine: Engine, plans: dict[int, list[list[int]]]) -> None:
    """Every in-engine arm gives the logits that it must."""
    assert engine.about.not_steered is None
    outcomes: dict[str, Outcome] = {}
    for arm in inengine.arms(engine, plans, natural_k=1, spin_us=None, longest=LENGTH):
        assert arm.unsupported is None
        with engine.ranks.during("observing_logits") as seen:
            done = engine.prefill(PROMPTS, arm.block_ids, arm.override)
        outcome = Outcome(seen[0][-1], done.first_tokens)
        twin = outcomes.setdefault(arm.same_kernel_as if arm.override else arm.name, outcome)
        objection = inengine.objection(outcome, outcomes["engine"], twin)
        assert objection is None, f"{arm.name} at spread_k = {arm.spread_k}: {objection}"


def main(name: str, directory: str, backend: str | None = None) -> None:
    """Check one model and print how many of its arms have which status."""
    model = next(model for model in MODELS if model.name == name)
    print(dict(check(model, Path(directory), backend)))


if __name__ == "__main__":
    main(*sys.argv[1:])
