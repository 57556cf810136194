"""Several prompts in one step of the real engine: blocks, outputs, in-engine arms."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from harness import batch, device, kernels, layout
from harness.engine import inengine, prefills
from harness.engine.engine import Engine
from harness.engine.inengine import Outcome
from harness.engine.options import EngineError
from harness.replay import arms
from harness.replay.placement import Placement, readable
from harness.replay.series import Judge, prepare
from harness.runs.record import Status
from tests.attention_calls import plan
from tests.engines import configured, inputs

pytestmark = pytest.mark.usefixtures("inference_mode")
TEXT, BLOCK_SIZE = "1x1,17,50@2,128,1,2x97,1x31", 32
LENGTHS = [request.length for request in batch.parse(TEXT)]
PROMPTS = [[(11 * n * n + 7 * n + 53 * r) % 512 for n in range(length)] for r, length in enumerate(LENGTHS)]


@pytest.fixture(scope="module")
def asked(tiny_gpt2):
    config = configured(tiny_gpt2, batch=TEXT, block_size=BLOCK_SIZE)
    return config, inputs(tiny_gpt2, batch=TEXT, block_size=BLOCK_SIZE)[1]


@pytest.fixture(scope="module")
def engine(asked) -> Iterator[Engine]:
    config, source = asked
    with Engine(config.engine(), source) as engine:
        yield engine


@pytest.fixture(scope="module")
def plans(engine, asked):
    settings, _ = asked
    blocks = batch.blocks(settings.requests, BLOCK_SIZE)
    free = engine.free_block_ids()
    one_segment = layout.plan_batch(blocks, settings.segments(1), free)
    taken = {block for ids in one_segment for block in ids}
    rest = [block for block in free if block not in taken]
    return {1: one_segment} | {
        k: layout.plan_batch(blocks, settings.segments(k), rest, seed=k, gap=gap)  # type: ignore[arg-type]
        for k, gap in ((2, "shuffled"), (3, "scattered"), (4, "shuffled"))
    }


@pytest.fixture(scope="module")
def base(engine, plans):
    """The captured prefill; the only rank keeps its calls."""
    return prefills.capture(engine, PROMPTS, plans[1], None)[0]


@pytest.fixture
def calls(engine, base):
    return engine.ranks.only.captured.calls


def test_each_request_gets_its_blocks_and_computes_the_same(engine, plans, base, calls):
    for k, block_ids in plans.items():
        assert prefills.check(engine, PROMPTS, block_ids, base) == []
        for call in calls.values():
            table = engine.ranks.only.checked.tables[call.layer]
            assert call.block_ids(table) == block_ids
            assert not any(row[len(ids) :].any() for row, ids in zip(table, block_ids, strict=True))
            assert call.lengths == tuple(LENGTHS)
        segments = [layout.spread_k(ids) for ids in block_ids]
        assert segments == [1 if k == 1 else min(2 if n == 50 else k, -(-n // BLOCK_SIZE)) for n in LENGTHS]


def test_a_mix_up_of_requests_is_found(engine, plans, base):
    swapped = [*PROMPTS[:5], PROMPTS[6], PROMPTS[5], PROMPTS[7]]  # of one length, with other tokens
    assert any("bit for bit" in text for text in prefills.check(engine, swapped, plans[2], base))
    exchanged = [*plans[2][:5], plans[2][6], plans[2][5], plans[2][7]]
    assert prefills.check(engine, PROMPTS, exchanged, base) == [], "other blocks are no other result"
    with engine.ranks.during("checking", plans[2], engine.block_size) as found:
        engine.prefill(PROMPTS, exchanged)
    assert any("request 5 has" in text for text in found[0])


def test_every_request_is_the_reference_s_and_its_own(engine, base, calls):
    call = calls[2]
    judge = Judge(call)
    assert judge.error_of(call.output) < judge.tolerance
    start = 0
    for length in LENGTHS:  # one wrong request among many shows
        wrong = call.output.clone()
        wrong[start + length - 1] += 1
        assert judge.error_of(wrong) > judge.tolerance
        start += length
    alone = engine.prefill([PROMPTS[3]])
    assert alone.first_tokens == (base.first_tokens[3],)


@pytest.mark.parametrize("spread_k", [1, 4])
def test_every_arm_is_right_or_refused_in_words(engine, plans, base, calls, spread_k):
    assert prefills.check(engine, PROMPTS, plans[spread_k], base) == []
    call, checked = calls[0], engine.ranks.only.checked
    one_segment, split = (kernels.PagedKV(call.kv_cache, t) for t in (call.block_table, checked.tables[0]))
    place = Placement(call, spread_k, one_segment, split, readable(call, split))
    functions = kernels.flash_attn_functions(device.kind())
    found = arms.of_series(place, kernels.for_engine(call), functions, "captured", plan)
    for result in prepare(found, Judge(call), "series").results:
        if result.cell.kernel.startswith("flash_attn_") and result.cell.arm in ("contiguous", "fragmented"):
            assert result.status is Status.UNSUPPORTED
            assert "requests of different lengths" in (result.reason or "")
        elif result.cell.kernel != "gather_qkv":
            assert result.status is Status.OK, result


def test_in_engine_arms_come_to_what_vllm_comes_to(engine, plans):
    found = inengine.arms(
        engine, {1: plans[1], 4: plans[4]}, natural_k=1, spin_us=None, longest=max(map(len, PROMPTS))
    )
    outcomes = []
    for arm in found:
        with engine.ranks.during("observing_logits") as seen:
            done = engine.prefill(PROMPTS, arm.block_ids, arm.override)
        outcomes.append(Outcome(seen[0][-1], done.first_tokens))
        assert seen[0][-1].shape == (len(PROMPTS), 512)
    twins = {arm.name: outcome for arm, outcome in reversed(list(zip(found, outcomes, strict=True)))}
    for arm, got in zip(found, outcomes, strict=True):
        assert inengine.objection(got, twins["engine"], twins[arm.same_kernel_as]) is None, arm.name
    engines = twins["engine"]
    off = engines.logits.clone()
    off[5] += torch.randn(512)
    assert "of their spread" in inengine.objection(
        Outcome(off, engines.tokens), engines, Outcome(off, engines.tokens)
    )


def test_prompts_that_do_not_fit_one_step_are_refused_and_the_engine_goes_on(engine, plans, base):
    with pytest.raises(EngineError, match=r"9 prompts of 423 tokens .* set --max-num-batched-tokens"):
        engine.prefill([*PROMPTS, [5]])
    assert engine.prefill(PROMPTS, plans[1]).first_tokens == base.first_tokens
