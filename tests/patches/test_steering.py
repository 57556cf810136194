"""Attention steered inside the real engine."""

from __future__ import annotations

import importlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from harness import layout
from harness.engine import inengine
from harness.engine.inengine import InEngineArm, Outcome
from harness.kernels import overrides
from patches import PatchError, layer_kinds, steering
from patches.steering import Override, Steering, pure_prefill
from tests.conftest import BLOCK_SIZE, LENGTH

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("inference_mode")]
BLOCKS = layout.num_blocks(LENGTH, BLOCK_SIZE)


@pytest.fixture(scope="module")
def plans(engine):
    free = engine.free_block_ids()
    one_segment = layout.plan(BLOCKS, 1, free)
    rest = [block for block in free if block not in set(one_segment)]
    return {1: [one_segment], BLOCKS: [layout.plan(BLOCKS, BLOCKS, rest, seed=3)]}


@pytest.fixture(scope="module")
def arms(engine, plans):
    return inengine.arms(engine, plans, natural_k=1, spin_us=None, longest=LENGTH)


def outcome(engine, prompts, arm: InEngineArm) -> Outcome:
    with engine.ranks.during("observing_logits") as seen:
        done = engine.prefill(prompts, arm.block_ids, arm.override)
    return Outcome(seen[0][-1], done.first_tokens)


def cached(engine, block_ids) -> torch.Tensor:
    """What the first layer's cache holds in these blocks."""
    from vllm.forward_context import get_forward_context  # noqa: F401  (the layers hold their caches)

    layer = next(iter(engine.ranks.only.layers.values()))
    cache = layer.kv_cache
    return (cache[0] if isinstance(cache, list) else cache)[block_ids[0]]


def test_all_arms_come_to_what_vllm_comes_to(engine, prompts, arms):
    outcomes = {(arm.name, arm.spread_k): outcome(engine, prompts, arm) for arm in arms}
    names = {name for name, _ in outcomes}
    assert names == {"engine", "wrapped", "paged", "dense", "no_write", "compact"}
    twins = {name: next(o for (n, _), o in outcomes.items() if n == name) for name in names}
    for arm in arms:
        got = outcomes[arm.name, arm.spread_k]
        assert inengine.objection(got, twins["engine"], twins[arm.same_kernel_as]) is None
        assert got.tokens == twins["engine"].tokens


@pytest.mark.parametrize(("name", "written"), [("paged", True), ("dense", True), ("no_write", False)])
def test_only_no_write_leaves_the_cache_alone(engine, prompts, plans, arms, name, written):
    cached(engine, plans[1])  # it can be read
    cache = next(iter(engine.ranks.only.layers.values())).kv_cache
    cache = cache[0] if isinstance(cache, list) else cache
    cache[plans[1][0]] = 0
    arm = next(arm for arm in arms if arm.name == name and arm.spread_k == 1)
    engine.prefill(prompts, arm.block_ids, arm.override)
    assert bool(cache[plans[1][0]].any()) is written


def test_dense_reads_the_steps_own_k_and_v_and_compact_the_cache(engine, prompts, plans, arms):
    """Where nothing was written, what reads the cache must notice and what reads K and V must not."""
    dense, compact = (next(arm for arm in arms if arm.name == name) for name in ("dense", "compact"))
    right = outcome(engine, prompts, dense)
    for arm, reads_cache in ((dense, False), (compact, True)):
        assert arm.override is not None
        blind = InEngineArm(arm.name, 1, replace(arm.override, write_cache=False), arm.block_ids)
        cache = next(iter(engine.ranks.only.layers.values())).kv_cache
        (cache[0] if isinstance(cache, list) else cache)[arm.block_ids[0]] = 0
        got = outcome(engine, prompts, blind)
        assert torch.equal(got.logits, right.logits) is not reads_cache


def test_a_wrong_outcome_is_found():
    values = torch.randn(1, 50)
    engines = Outcome(values, (int(values.argmax()),))
    assert inengine.objection(engines, engines, engines) is None
    shifted = Outcome(values + 0.2 * torch.randn(1, 50), engines.tokens)
    assert "should be identical" in inengine.objection(shifted, engines, engines)
    assert "of their spread" in inengine.objection(shifted, engines, shifted)
    broken = Outcome(values * float("nan"), engines.tokens)
    assert inengine.objection(broken, engines, broken) is not None
    other = Outcome(values, (int(values.argmin()),))
    assert "leads by" in inengine.objection(other, engines, other)


def test_one_wrong_request_of_a_batch_is_found():
    values = torch.randn(3, 50)
    best = tuple(values.argmax(1).tolist())
    engines = Outcome(values, best)
    assert inengine.objection(engines, engines, engines) is None
    off = values.clone()
    off[2] += 0.1 * torch.randn(50)
    assert "of their spread" in inengine.objection(Outcome(off, best), engines, Outcome(off, best))
    other = Outcome(values, (*best[:2], int(values[2].argmin())))
    assert "leads by" in inengine.objection(other, engines, other)


def wrapped(engine) -> list[str]:
    """What of vLLM is replaced at the moment."""
    rank = engine.ranks.only
    found = [f"{name}.do_kv_cache_update" for name, layer in rank.layers.items()
             if "do_kv_cache_update" in vars(layer.impl)]  # fmt: skip
    found += [a for a in ("execute_model",) if a in vars(rank.model_runner)]
    for address in set(overrides.BACKEND_KERNELS.values()):
        module, _, name = address.partition(":")
        kernel = getattr(importlib.import_module(module), name, None)  # one of the two is another device's
        found += [address] if getattr(kernel, "__module__", None) == steering.__name__ else []
    return found


def test_patches_are_undone_after_an_error(engine, prompts, plans):
    def failing(*_):
        raise RuntimeError("no such kernel")

    override = Override(ahead=failing)
    with pytest.raises(RuntimeError, match="no such kernel"):
        engine.prefill(prompts, plans[1], override)
    assert wrapped(engine) == []


def test_an_error_while_putting_patches_on_undoes_those_before(engine):
    last = list(engine.ranks.only.layers.values())[-1]
    original = last.impl.__class__
    broken = type("Broken", (original,), {"do_kv_cache_update": property(lambda self: 1 / 0)})
    last.impl.__class__ = broken
    try:
        with pytest.raises(ZeroDivisionError), engine.ranks.only.steering.on(Override()):
            pass
    finally:
        last.impl.__class__ = original
    assert wrapped(engine) == []


def test_a_backend_without_an_override_loses_the_arms_that_need_one(engine, prompts, plans, monkeypatch):
    known = {name: kernel for name, kernel in overrides.BACKEND_KERNELS.items() if name != "CPU_ATTN"}
    rank = engine.ranks.only
    monkeypatch.setattr(
        rank, "steering", Steering(rank.layers, rank.model_runner, known, overrides.by_source(), rank.kinds)
    )
    monkeypatch.setattr(engine, "about", rank.about())
    arms = inengine.arms(engine, plans, natural_k=1, spin_us=None, longest=LENGTH)
    assert {arm.name for arm in arms if arm.unsupported} == {"dense", "no_write", "compact"}
    assert all(
        "how CPU_ATTN calls its kernel is not known" in arm.unsupported for arm in arms if arm.unsupported
    )
    paged = next(arm for arm in arms if arm.name == "paged")
    assert outcome(engine, prompts, paged).logits.equal(outcome(engine, prompts, arms[0]).logits)


def test_layers_that_cannot_be_steered_are_refused():
    layer = SimpleNamespace(attn_backend=SimpleNamespace(get_name=lambda: "CPU_MLA"), impl=SimpleNamespace())
    kinds = layer_kinds.of_specs({"a": layer}, {"a": None}, torch.bfloat16)
    with pytest.raises(PatchError, match="latent attention"):
        Steering({"a": layer}, None, overrides.BACKEND_KERNELS, overrides.by_source(), kinds)


def schedule(new, cached=()):
    """A scheduler's output: (prompt length, computed before, scheduled) of each new request."""
    requests = [
        SimpleNamespace(req_id=str(n), prompt_token_ids=[0] * length, num_computed_tokens=computed)
        for n, (length, computed, _) in enumerate(new)
    ]
    return SimpleNamespace(
        scheduled_new_reqs=requests,
        scheduled_cached_reqs=SimpleNamespace(req_ids=list(cached)),
        num_scheduled_tokens={str(n): scheduled for n, (_, _, scheduled) in enumerate(new)},
    )


@pytest.mark.parametrize(
    ("output", "lengths"),
    [
        (schedule([(300, 0, 300)]), (300,)),
        (schedule([(300, 0, 300), (7, 0, 7)]), (300, 7)),
        (schedule([(300, 0, 128)]), None),  # a chunk
        (schedule([(300, 64, 236)]), None),  # a prefix hit
        (schedule([(300, 0, 300)], cached=["x"]), None),  # with a decode
        (schedule([], cached=["x"]), None),  # a decode
        (schedule([]), None),
    ],
)
def test_what_a_pure_prefill_is(output, lengths):
    assert pure_prefill(output) == lengths
