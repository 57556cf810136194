"""The real engine: chosen blocks, captured calls, longer positions, replay."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
import torch

from harness import device, kernels, layout
from harness.calls import capture
from harness.engine import prefills
from harness.engine.engine import check_backend
from harness.engine.options import EngineError
from harness.replay import arms
from harness.replay.placement import Placement, make_placement, readable
from harness.replay.series import Judge, prepare
from harness.runs.record import Status
from patches import PatchError, block_pool, positions
from tests.attention_calls import plan
from tests.conftest import BLOCK_SIZE, LENGTH

pytestmark = [pytest.mark.engine, pytest.mark.usefixtures("inference_mode")]
BLOCKS = layout.num_blocks(LENGTH, BLOCK_SIZE)


@pytest.fixture(scope="module")
def one_segment(engine):
    return [layout.plan(BLOCKS, 1, engine.free_block_ids())]


@pytest.fixture(scope="module")
def base(engine, prompts, one_segment):
    """The captured prefill; the only rank keeps its calls."""
    return prefills.capture(engine, prompts, one_segment, None)[0]


@pytest.fixture
def captured(engine, base):
    return engine.ranks.only.captured


def split_ids(engine, one_segment, spread_k, gap="shuffled"):
    rest = [block for block in engine.free_block_ids() if block not in set(one_segment[0])]
    return [layout.plan(BLOCKS, spread_k, rest, gap=gap, seed=spread_k)]


@pytest.mark.parametrize("gap", ["shuffled", "scattered"])
@pytest.mark.parametrize("spread_k", [1, 2, 3, BLOCKS])
def test_the_engine_uses_the_chosen_blocks_and_computes_the_same(
    engine, prompts, one_segment, base, spread_k, gap
):
    ids = split_ids(engine, one_segment, spread_k, gap)
    assert prefills.check(engine, prompts, ids, base) == []
    tables = engine.ranks.only.checked.tables
    assert set(tables) == {0, 1, 2}
    assert layout.spread_k(tables[0][0].tolist()) == spread_k


def test_a_backend_that_vllm_does_not_take_is_named(engine):
    for fine in (None, "CPU_ATTN", "cpu_attn"):
        check_backend(fine, engine.about.backends)
    with pytest.raises(EngineError, match=r"^--attention-backend TRITON_ATTN: vLLM took CPU_ATTN instead"):
        check_backend("TRITON_ATTN", engine.about.backends)


def test_a_prefill_that_differs_is_found(engine, prompts, one_segment, base):
    other = [[(token + 1) % 512 for token in prompts[0]]]
    problems = prefills.check(engine, other, split_ids(engine, one_segment, 2), base)
    assert any("not bit for bit" in problem for problem in problems)


def test_blocks_in_use_are_refused(engine):
    with pytest.raises(PatchError, match="in use"):
        block_pool.choose_next(engine.block_pool, [0])  # block 0 is vLLM's null block


def test_the_free_queue_is_whole_after_steering(engine, prompts, one_segment):
    before = engine.free_block_ids()
    engine.prefill(prompts, split_ids(engine, one_segment, 3))
    assert engine.free_block_ids() == before


def test_captured_calls_say_what_the_layer_got(captured):
    call = captured.calls[1]
    assert call.query.shape == (LENGTH, 2, 64)
    assert call.query.stride() == (3 * 2 * 64, 64, 1), "gpt2's projection is fused: strides must survive"
    assert call.query.untyped_storage().data_ptr() == call.value.untyped_storage().data_ptr()
    assert call.causal
    assert call.scale == pytest.approx(64**-0.5)
    assert call.block_table.shape == (1, BLOCKS)
    expected = layout.slot_mapping(call.block_table[0].tolist(), BLOCK_SIZE, LENGTH)
    assert call.slot_mapping.tolist() == expected.tolist()


def test_an_outline_is_the_call_without_its_numbers(captured):
    call = captured.calls[1]
    outline = pickle.loads(pickle.dumps(capture.outline(call)))
    assert outline.shape_key() == call.shape_key()
    assert outline.query.is_meta
    assert outline.kv_cache.shape == call.kv_cache.shape
    assert torch.equal(outline.block_table, call.block_table)
    # The pool is most of a GPU's memory and is not copied on the way: an outline's has no numbers to copy.
    assert capture.outline(outline).shape_key() == call.shape_key()


def test_captured_output_is_attention_of_captured_qkv(captured):
    for call in captured.calls.values():
        judge = Judge(call)
        assert judge.error_of(call.output) < judge.tolerance
        assert not judge.error_of(torch.roll(call.output, 1, dims=0)) < judge.tolerance


def test_saved_calls_come_back_whole(captured, tmp_path):
    call = captured.calls[0]
    capture.save(call, tmp_path / "call.safetensors")
    loaded = capture.load(tmp_path / "call.safetensors", str(call.query.device))
    assert loaded.shape_key() == call.shape_key()
    for name in ("query", "key", "value", "output", "block_table", "slot_mapping"):
        assert torch.equal(getattr(loaded, name), getattr(call, name)), name
    assert replace(loaded, kv_cache=None).qkv_strides == call.qkv_strides


def test_no_other_file_is_read_as_a_capture(tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(capture.CaptureError, match=r"x\.safetensors"):
        capture.load(tmp_path / "x.safetensors", "cpu")


def arms_of(call, place, data="captured"):
    functions = kernels.flash_attn_functions(device.kind())
    judge = Judge(place.call)
    found = arms.of_series(place, kernels.for_engine(call), functions, data, plan)
    return prepare(found, judge, "series")


@pytest.mark.parametrize("spread_k", [1, 4, BLOCKS])
def test_every_arm_in_the_engines_cache_gives_the_right_output(
    engine, prompts, one_segment, base, captured, spread_k
):
    assert prefills.check(engine, prompts, split_ids(engine, one_segment, spread_k), base) == []
    for call in captured.calls.values():
        split = kernels.PagedKV(call.kv_cache, engine.ranks.only.checked.tables[call.layer])
        place = Placement(
            call,
            spread_k,
            kernels.PagedKV(call.kv_cache, call.block_table),
            split,
            readable(call, split),
        )
        results = arms_of(call, place).results
        assert {result.status for result in results} == {Status.OK}, [r.reason for r in results]
        assert sum(result.control for result in results) == 1
        assert any(result.one_segment_for == spread_k for result in results)


def test_synthetic_arms_are_right_too(captured):
    call = captured.calls[0]
    kernel = kernels.for_engine(call)
    ids = layout.plan(BLOCKS, 3, range(BLOCKS + 1, 2 * BLOCKS + 1))
    random = arms.synthetic(call, seed=1)
    assert not torch.equal(random.query, call.query)
    place = arms.with_output(make_placement(random, kernel, 3, [ids]), kernel)
    assert {result.status for result in arms_of(random, place, "synthetic").results} == {Status.OK}


def test_a_wrong_block_table_is_reported_not_timed(captured):
    call = captured.calls[0]
    wrong = call.block_table.flip(1).contiguous()
    one_segment = kernels.PagedKV(call.kv_cache, call.block_table)
    split = kernels.PagedKV(call.kv_cache, wrong)
    series = arms_of(call, Placement(call, BLOCKS, one_segment, split, split))
    for result, step in zip(series.results, series.steps, strict=True):
        if (result.cell.stage, result.cell.arm) == ("kernel", "paged") and not result.one_segment_for:
            assert result.status is Status.WRONG_OUTPUT
            assert "bit for bit" in (result.reason or "")
            assert step is None


def hooked(engine):
    return ["forward" in vars(layer.impl) for layer in engine.ranks.only.layers.values()]


def test_the_hook_is_there_only_while_observing_also_after_an_error(engine):
    assert not any(hooked(engine))

    def observe_and_fail():
        with engine.ranks.only.hook.observing(lambda *arguments: None):
            assert all(hooked(engine))
            raise ValueError("a step's own fault")

    with pytest.raises(ValueError, match="own fault"):
        observe_and_fail()
    assert not any(hooked(engine))


def test_an_idle_hook_changes_nothing_and_goes_in_once(engine, prompts, one_segment, base):
    hook = engine.ranks.only.hook
    hook.install()
    try:
        assert engine.prefill(prompts, one_segment).first_tokens == base.first_tokens
        with pytest.raises(RuntimeError, match="already hooked"):
            hook.install()
    finally:
        hook.remove()
    assert not any(hooked(engine))


def test_the_first_token_is_what_transformers_predicts(base, tiny_gpt2, prompts):
    from transformers import GPT2LMHeadModel

    model = GPT2LMHeadModel.from_pretrained(tiny_gpt2, dtype=torch.float32)
    model.transformer.wpe.weight.data = positions.repeat_rows(model.transformer.wpe.weight.data, LENGTH)
    model.config.n_positions = LENGTH
    with torch.no_grad():
        logits = model(torch.tensor(prompts)).logits[0, -1]
    (token,) = base.first_tokens
    assert token in logits.topk(3).indices.tolist()
    assert logits[token] > logits.max() - 0.05
