"""Arms: every layout and kernel gives the same attention; what cannot run says why."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import kernels, layout
from harness.analysis.contrasts import name_in_series
from harness.kernels import DenseKV, PagedKV, fp8, vllm_cache, vllm_cpu
from harness.replay import arms
from harness.replay.placement import gather
from harness.replay.series import Judge, Replay, prepare
from harness.runs.record import Result, Status
from patches import Symbol
from tests.attention_calls import make_call, place, plan


def prepared(placement):
    functions = kernels.flash_attn_functions("cpu")
    found = arms.of_series(placement, kernels.for_engine(placement.call), functions, "captured", plan)
    judge = Judge(placement.call)
    return prepare(found, judge, "series")


@settings(max_examples=15)
@given(st.integers(1, 330), st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]), st.data())
def test_every_layout_gives_the_same_attention(length, heads, data):
    blocks = layout.num_blocks(length, 32)
    spread_k = data.draw(st.integers(1, blocks))
    call = make_call(length, heads=heads[0], kv_heads=heads[1])
    for result in prepared(place(call, spread_k)).results:
        packed_gqa = heads[0] != heads[1] and result.cell.kernel in (
            "flash_attn_qkvpacked_func",
            "gather_qkv",
        )
        assert result.status is (Status.UNSUPPORTED if packed_gqa else Status.OK), result


@settings(max_examples=6)
@given(st.lists(st.integers(1, 150), min_size=2, max_size=4), st.integers(1, 5), st.booleans())
def test_every_layout_of_a_batch_gives_the_same_attention(lengths, spread_k, equal):
    lengths = [lengths[0]] * len(lengths) if equal else lengths
    ragged = len(set(lengths)) > 1
    spread_k = min(spread_k, layout.num_blocks(max(lengths), 32))
    for result in prepared(place(make_call(lengths=lengths, kv_heads=4), spread_k)).results:
        refused = ragged and (result.cell.kernel.startswith("flash_") or result.cell.kernel == "gather_qkv")
        assert result.status is (Status.UNSUPPORTED if refused else Status.OK), result
        assert not refused or "requests of different lengths" in (result.reason or "")


@settings(max_examples=10)
@given(st.lists(st.integers(1, 150), min_size=2, max_size=5), st.integers(1, 5), st.data())
def test_one_request_of_a_batch_alone_is_what_it_is_in_the_batch(lengths, spread_k, data):
    index = data.draw(st.integers(0, len(lengths) - 1))
    placement = place(make_call(lengths=lengths), spread_k)
    kernel = kernels.for_engine(placement.call)
    alone = arms.with_output(placement.alone(index), kernel)
    found = arms.of_request(alone, kernel, index)
    start = sum(lengths[:index])
    rows = slice(start, start + lengths[index])
    torch.testing.assert_close(alone.call.output, placement.call.output[rows], rtol=2e-2, atol=2e-2)
    assert alone.spread_k == placement.segments[index] == min(spread_k, layout.num_blocks(lengths[index], 32))
    results = prepare(found, Judge(alone.call), "series").results
    assert {(r.status, r.cell.request) for r in results} == {(Status.OK, index)}, results
    names = {"dense", "paged", "paged@1 again"} | ({"paged@1"} if alone.spread_k > 1 else set())
    assert {name_in_series(r) for r in results} == names


@settings(max_examples=10)
@given(st.lists(st.integers(1, 150), min_size=1, max_size=4), st.integers(1, 5))
def test_a_placebo_is_the_same_segment_in_other_memory(lengths, spread_k):
    placement = place(make_call(lengths=lengths), spread_k)
    here, elsewhere = placement.one_segment, placement.elsewhere
    one, two = gather(here, lengths), gather(elsewhere, lengths)
    assert torch.equal(one.key, two.key)
    assert torch.equal(one.value, two.value)
    assert elsewhere.cache.untyped_storage().data_ptr() != here.cache.untyped_storage().data_ptr()
    assert elsewhere.cache.stride() == here.cache.stride()
    assert all(layout.spread_k(ids) == 1 for ids in placement.call.block_ids(elsewhere.block_table))


@given(st.lists(st.integers(1, 40), min_size=1, max_size=5), st.integers(1, 5), st.booleans(), st.data())
def test_gathering_restores_token_order(lengths, block_size, packed, data):
    counts = [layout.num_blocks(length, block_size) for length in lengths]
    ids = data.draw(st.permutations(range(sum(counts))))
    table = torch.full((len(lengths), max(counts)), 10**6, dtype=torch.int32)  # past its own, never read
    cache = torch.randn(sum(counts), block_size, 2, 8).transpose(1, 2)
    expected = []
    for row, (count, length) in enumerate(zip(counts, lengths, strict=True)):
        own = [ids.pop() for _ in range(count)]
        table[row, :count] = torch.tensor(own)
        expected += [cache[own[n // block_size], :, n % block_size] for n in range(length)]
    qkv = torch.full((sum(lengths), 3, 2, 4), torch.nan)
    into = DenseKV(qkv[:, 1], qkv[:, 2]) if packed else None
    got = gather(PagedKV(cache, table), lengths, into)
    assert torch.equal(torch.cat([got.key, got.value], dim=-1), torch.stack(expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_head_sizes_and_dtypes(dtype, head_dim):
    series = prepared(place(make_call(head_dim=head_dim, kv_heads=4, dtype=dtype), 3))
    assert {result.status for result in series.results} == {Status.OK}, [r.reason for r in series.results]


@pytest.mark.parametrize(("option", "words"), [({"sliding_window": (31, 0)}, "sliding window"),
                                               ({"softcap": 20.0}, "soft-cap")])  # fmt: skip
def test_the_engines_kernel_takes_what_the_stand_in_does_not(option, words):
    series = prepared(place(make_call(**option), 3))
    for result in series.results:
        if result.cell.provider == "vLLM CPU" or result.cell.kernel == "gather_kv":
            assert result.status is Status.OK, result.reason
        else:
            assert result.status is Status.UNSUPPORTED
            assert words in (result.reason or "") or "packing" in (result.reason or "")


def cache_writes(kv_cache_dtype: str = "fp8") -> dict[str, Result]:
    """The cache writes of a call whose cache is quantised, by name; all else must be refused."""
    placement = place(make_call(lengths=(70, 40)), 2)
    placement.call = replace(placement.call, cache_dtype="uint8", kv_cache_dtype=kv_cache_dtype)
    results = (
        Replay("cpu", gap="shuffled", sizes="even", seed=0).series(placement, with_synthetic=True).results
    )
    others = [result for result in results if result.cell.stage != "cache_write"]
    assert {(result.status, "would lack vLLM's scales" in (result.reason or "")) for result in others} == {
        (Status.UNSUPPORTED, True)
    }
    writes = [result for result in results if result.cell.stage == "cache_write"]
    assert len({result.series for result in writes}) == 1
    return {name_in_series(result): result for result in writes}


@pytest.mark.parametrize("kv_cache_dtype", fp8.FLOAT8)
def test_a_write_into_8_bit_floats_runs_beside_one_that_does_not_convert(kv_cache_dtype):
    writes = cache_writes(kv_cache_dtype)
    assert writes.keys() == {"converted", "unconverted", "unconverted again"}
    assert {(r.status, r.reason) for r in writes.values()} == {(Status.OK, None)}


def test_a_converting_write_that_stores_something_else_is_not_timed(monkeypatch):
    monkeypatch.setattr(vllm_cpu.VllmCpuAttention, "_write", lambda *_: None)
    assert cache_writes()["converted"].status is Status.ERROR
    assert "from K and V, 0.125 allowed" in (cache_writes()["converted"].reason or "")


def test_where_no_write_converts_the_cells_say_why(monkeypatch):
    for name, result in cache_writes("fp8_per_token_head").items():
        assert result.status is Status.UNSUPPORTED, name
        assert "the cache write of a fp8_per_token_head cache (uint8) is not replayed" in (
            result.reason or ""
        )
    older = Symbol("vllm._custom_ops:cpu_attn_reshape_and_cache", ("a_later_parameter",))
    monkeypatch.setattr(vllm_cpu, "FLOAT8", older)
    writes = cache_writes()
    assert writes["converted"].status is Status.UNSUPPORTED
    assert "a fp8 cache: vllm._custom_ops:cpu_attn_reshape_and_cache has no" in (
        writes["converted"].reason or ""
    )
    assert writes["unconverted"].status is Status.OK


@pytest.mark.parametrize(("name", "stored"), fp8.FLOAT8.items())
def test_what_a_gpus_cache_holds_is_held_against_k_and_v(name, stored):
    call = replace(make_call(lengths=(70, 40)), kv_cache_dtype=name)
    call.key[3, 0, :4] = torch.tensor([0.0, 1e-6, -500.0, 2.0**-8])
    rows = torch.zeros(6 * 32, 2, 128, dtype=torch.uint8)
    at = torch.randperm(6 * 32)[:110]
    most = torch.finfo(stored.dtype).max
    rows[at] = torch.cat([call.key, call.value], dim=-1).clamp(-most, most).to(stored.dtype).view(torch.uint8)
    kv = PagedKV(rows.view(6, 32, 2, 128).transpose(1, 2), torch.empty(0))
    assert 0 < vllm_cache.stored_error(call, kv, at) <= stored.step / 2, "rounded to the nearest"
    rows[at[5], 1, 100] ^= 0x80
    assert vllm_cache.stored_error(call, kv, at) > stored.step, "a sign"
