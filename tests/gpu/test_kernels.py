"""Kernels on a GPU: every claimed cell of the support table and every arm right, every refusal in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from harness import kernels
from harness.kernels import fp8, reference, upstream
from harness.kernels.listed import all_kernels
from harness.kernels.support import Feature, features_of, refusal, unavailable
from harness.measure.timers import CudaEventTimer, Step
from harness.replay import arms
from harness.replay.placement import make_placement
from harness.replay.series import Judge, Replay, prepare
from harness.runs.record import Status
from tests.attention_calls import make_call, place, plan
from tests.kernel_calls import FORMS, call_with, error_of, run_of

FLASH_ATTN = ("flash_attn_func", "flash_attn_qkvpacked_func", "flash_attn_with_kvcache")
LISTED = [kernel for kernel in all_kernels("cuda") if "cuda" in kernel.support.devices]
CELLS = [
    pytest.param(kernel, form, feature, id=f"{kernel.label}-{form.name}-{feature.name}")
    for kernel in LISTED
    for form in FORMS
    for feature in Feature
    if feature not in set(FORMS) - {form} and {form, feature} <= kernel.support.features
]
PAGES = (16, 32, 48, 128, 256)


def right(kernel, call, form, page_size):
    """The output on the call is right; skips where the kernel is not installed."""
    missing = unavailable(kernel.support, "cuda")
    if missing:
        pytest.skip(missing)
    assert refusal(kernel, call, None if form is Feature.DENSE else page_size) is None
    output = run_of(kernel, call, form, page_size)()
    assert error_of(call, output) < reference.TOLERANCE[call.query.dtype]


@pytest.mark.parametrize(("kernel", "form", "feature"), CELLS)
def test_a_claimed_cell_is_right(kernel, form, feature):
    page_size = next(size for size in PAGES if size in kernel.support.page_sizes)
    right(kernel, call_with({feature}, device="cuda"), form, page_size)


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
@pytest.mark.parametrize("kernel", LISTED, ids=lambda kernel: kernel.label)
def test_head_sizes(kernel, head_dim):
    if head_dim not in kernel.support.head_sizes:
        assert "head size" in refusal(kernel, call_with({Feature.CAUSAL}, head_dim=head_dim, device="cuda"))
        return
    page_size = next(size for size in PAGES if size in kernel.support.page_sizes)
    call = call_with({Feature.CAUSAL}, head_dim=head_dim, device="cuda")
    for form in set(FORMS) & kernel.support.features:
        if head_dim in kernel.support.head_sizes_of(paged=form is Feature.PAGED):
            right(kernel, call, form, page_size)
        else:
            assert "with a block table" in refusal(kernel, call, page_size)


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128])
@pytest.mark.parametrize("kernel", LISTED, ids=lambda kernel: kernel.label)
def test_head_sizes_without_a_mask(kernel, head_dim):
    """Tiles are others than under a causal mask; those that a block table reaches in part are refused."""
    if not {Feature.FULL, Feature.PAGED} <= kernel.support.features or head_dim not in (
        kernel.support.head_sizes_of(paged=True)
    ):
        pytest.skip("not claimed")
    page_size = next(size for size in PAGES if size in kernel.support.page_sizes)
    call = call_with({Feature.FULL}, head_dim=head_dim, device="cuda", lengths=(290,))  # three tiles
    asked = features_of(call, page_size)
    if any(pair.forbids(asked, head_dim) for pair in kernel.support.apart):
        assert "for heads of 80 and 96" in refusal(kernel, call, page_size)
    else:
        right(kernel, call, Feature.PAGED, page_size)


@pytest.mark.parametrize("page_size", PAGES)
@pytest.mark.parametrize("kernel", LISTED, ids=lambda kernel: kernel.label)
def test_page_sizes(kernel, page_size):
    if Feature.PAGED in kernel.support.features and page_size in kernel.support.page_sizes:
        right(
            kernel,
            call_with({Feature.RAGGED} & kernel.support.features, device="cuda"),
            Feature.PAGED,
            page_size,
        )
    else:
        assert refusal(kernel, call_with({Feature.CAUSAL}, device="cuda"), page_size)


def test_what_a_flash_attn_build_was_made_without_is_refused_in_its_words():
    build = upstream.support()
    assert build.features <= upstream.SUPPORT.features
    kernel = next(kernel for kernel in LISTED if kernel.label == "FA2 func")
    for feature in upstream.SUPPORT.features - build.features:
        assert f"{kernel.provider} was built without it (" in refusal(
            kernel, call_with({feature}, device="cuda")
        )


def prepared(call, spread_k):
    placement = place(call, spread_k)
    found = arms.of_series(
        placement, kernels.for_engine(call), kernels.flash_attn_functions("cuda"), "captured", plan
    )
    judge = Judge(placement.call)
    return prepare(found, judge, "series")


@pytest.mark.parametrize("fa_version", [2, 3])
@pytest.mark.parametrize("block_size", [16, 48, 128, 256])
@pytest.mark.parametrize(("length", "spread_k"), [(1, 1), (257, 2), (1000, 4), (4096, 1), (4096, 16)])
def test_every_arm_is_right(fa_version, block_size, length, spread_k):
    call = make_call(length, kv_heads=4, block_size=block_size, device="cuda", fa_version=fa_version)
    spread_k = min(spread_k, -(-length // block_size))
    results = prepared(call, spread_k).results
    assert {r.status for r in results} == {Status.OK}, [
        (r.cell.kernel, r.cell.arm, r.reason) for r in results
    ]
    repaged = [r.reason for r in results if r.cell.kernel == FLASH_ATTN[2] and r.cell.arm == "fragmented"]
    assert all(("re-paged" in (reason or "")) == (block_size % 256 != 0) for reason in repaged)


@pytest.mark.parametrize("fa_version", [2, 3])
@pytest.mark.parametrize("block_size", [16, 256])
@pytest.mark.parametrize("lengths", [(300, 300, 300), (257, 1, 1000, 17)])
def test_every_arm_is_right_for_a_batch(fa_version, block_size, lengths):
    call = make_call(lengths=lengths, kv_heads=4, block_size=block_size, device="cuda", fa_version=fa_version)
    for result in prepared(call, 2).results:
        refused = result.cell.kernel in (*FLASH_ATTN, "gather_qkv") and len(set(lengths)) > 1
        assert result.status is (Status.UNSUPPORTED if refused else Status.OK), result
        assert not refused or "requests of different lengths" in result.reason


@pytest.mark.parametrize("fa_version", [2, 3])
def test_one_request_of_a_batch_alone_is_what_it_is_in_the_batch(fa_version):
    call = make_call(lengths=(257, 1, 1000), kv_heads=4, block_size=16, device="cuda", fa_version=fa_version)
    placement = place(call, 8)
    for index in range(3):
        kernel = kernels.for_engine(call)
        alone = arms.with_output(placement.alone(index), kernel)
        found = arms.of_request(alone, kernel, index)
        assert {r.status for r in prepare(found, Judge(alone.call), "s").results} == {Status.OK}


@pytest.mark.parametrize("name", fp8.FLOAT8)
@pytest.mark.parametrize("backend", ["FLASH_ATTN", "TRITON_ATTN"])
def test_a_write_into_8_bit_floats_is_right(backend, name):
    call = make_call(lengths=(257, 1, 1000), block_size=16, device="cuda", fa_version=3)
    placement = place(replace(call, backend=backend), 8)
    placement.call = replace(placement.call, cache_dtype="uint8", kv_cache_dtype=name)
    results = Replay("cuda", gap="scattered", sizes="even", seed=0).series(placement, False).results
    writes = {r.cell.arm: (r.status, r.reason) for r in results if r.cell.stage == "cache_write"}
    if backend == "TRITON_ATTN" and name == "fp8_e5m2":
        assert writes["converted"][0] is not Status.OK, "Triton's writer stores e4m3 whatever it is told"
    else:
        assert writes == dict.fromkeys(("converted", "unconverted"), (Status.OK, None))


@pytest.mark.parametrize("fa_version", [2, 3])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_grouped_queries(fa_version, head_dim, dtype):
    call = make_call(
        700, heads=8, kv_heads=2, head_dim=head_dim, block_size=16, dtype=dtype, device="cuda",
        fa_version=fa_version,
    )  # fmt: skip
    for result in prepared(call, 7).results:
        packed = result.cell.kernel in ("flash_attn_qkvpacked_func", "gather_qkv")
        assert result.status is (Status.UNSUPPORTED if packed else Status.OK), result.reason


def test_float32_is_refused_in_words():
    results = [r for r in prepared_float32() if r.cell.kernel != "gather_kv"]  # a copy takes any
    assert {r.status for r in results} == {Status.UNSUPPORTED}
    assert all("float32" in (r.reason or "") for r in results)


def prepared_float32():
    call = make_call(64, kv_heads=4, block_size=16, dtype=torch.float32, device="cuda", fa_version=3)
    kernel = kernels.for_engine(call)
    placement = make_placement(call, kernel, 2, [[6, 7, 5, 8]])
    found = arms.of_series(placement, kernel, kernels.flash_attn_functions("cuda"), "captured", plan)
    judge = Judge(call)
    return prepare(found, judge, "series").results


def test_out_of_memory_marks_the_arm():
    call = make_call(64, kv_heads=4, block_size=16, device="cuda", fa_version=3)
    placement = place(call, 2)
    found = arms.of_series(
        placement, kernels.for_engine(call), kernels.flash_attn_functions("cuda"), "captured", plan
    )

    def greedy() -> arms.Bound:
        torch.empty(1 << 50, device="cuda")
        raise AssertionError

    found[0] = arms.Arm(found[0].cell, greedy)
    judge = Judge(placement.call)
    results = prepare(found, judge, "series").results
    assert results[0].status is Status.OUT_OF_MEMORY
    assert {r.status for r in results[1:]} == {Status.OK}


@pytest.mark.alone
def test_the_event_timer_sees_gpu_time_not_launches():
    """A kernel repeated four times takes four times as long, though both are far below a launch gap."""
    x = torch.randn(1 << 20, device="cuda")
    timer = CudaEventTimer()
    steps = [Step(lambda n=n: [x.mul_(1.0) for _ in range(n)]) for n in (20, 80)]
    rounds = [timer.time_round(steps) for _ in range(30)]
    short, long = (sorted(column)[15] for column in zip(*rounds, strict=True))
    assert 3.0 < long / short < 5.0
