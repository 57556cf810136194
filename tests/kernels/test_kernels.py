"""Kernels on a CPU: every cell of the support table that claims support is right, the rest is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.kernels import DenseKV, Output, PagedKV, Unsupported, for_engine, reference, vllm_triton
from harness.kernels.listed import all_kernels
from harness.kernels.support import (
    Feature,
    Package,
    Sizes,
    features_of,
    load,
    refusal,
    try_once,
    unavailable,
)
from tests.kernel_calls import FORMS, HEAD_DIM, call_with, error_of, paged, run_of

pytestmark = pytest.mark.engine
KERNELS = {kernel.label: kernel for kernel in all_kernels("cpu")}
HERE = [kernel for kernel in KERNELS.values() if unavailable(kernel.support, "cpu") is None]


def together(kernel, features):
    asked = set(features) | ({Feature.BATCH} if Feature.RAGGED in features else set())
    return not any(pair.forbids(asked, HEAD_DIM) for pair in kernel.support.apart)


CELLS = [
    pytest.param(kernel, form, feature, id=f"{kernel.label}-{form.name}-{feature.name}")
    for kernel in HERE
    for form in FORMS
    for feature in Feature
    if feature not in set(FORMS) - {form}
    and {form, feature} <= kernel.support.features
    and together(kernel, {form, feature})
]
BIASES = st.sets(st.sampled_from([feature for feature in Feature if feature not in FORMS]), max_size=5)


@pytest.mark.parametrize(("kernel", "form", "feature"), CELLS)
def test_a_claimed_cell_is_right(kernel, form, feature):
    call = call_with({feature})
    asked = features_of(call, None if form is Feature.DENSE else 32)
    assert {form, feature} <= asked
    output = run_of(kernel, call, form)()
    assert error_of(call, output) < reference.TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("kernel", HERE, ids=lambda kernel: kernel.label)
@settings(max_examples=25)
@given(features=BIASES, form=st.sampled_from(FORMS))
def test_features_together_are_right_or_refused_in_words(kernel, features, form):
    call = call_with(features)
    reason = refusal(kernel, call, None if form is Feature.DENSE else 32)
    if reason is None:
        assert error_of(call, run_of(kernel, call, form)()) < reference.TOLERANCE[torch.bfloat16]
    else:
        with pytest.raises(Unsupported) as refused:
            bare(kernel, call, form)
        assert str(refused.value) == reason


def bare(kernel, call, form):
    """Ask without making a cache that would hold the call."""
    if form is Feature.DENSE:
        return kernel.dense(call, DenseKV(call.key, call.value))
    cache = call.key.new_zeros(1, call.num_kv_heads, 32, 2 * call.head_dim)
    return kernel.paged(call, PagedKV(cache, torch.zeros(call.num_requests, 1, dtype=torch.int32)))


WITHOUT = {
    Feature.FULL: {"causal": True},
    Feature.SCALE: {"scale": 64**-0.5},
    Feature.WINDOW: {"sliding_window": (-1, -1)},
    Feature.SYMMETRIC: {"sliding_window": (-1, -1)},
    Feature.LOPSIDED: {"sliding_window": (9, 9)},
    Feature.SOFTCAP: {"softcap": 0.0},
    Feature.ALIBI: {"alibi_slopes": None},
    Feature.SINKS: {"sinks": None},
    Feature.BATCH: {"query_start_loc": torch.tensor([0, 300]), "seq_lens": torch.tensor([300])},
    Feature.RAGGED: {"query_start_loc": torch.tensor([0, 188]), "seq_lens": torch.tensor([188])},
}


@pytest.mark.parametrize("feature", WITHOUT)
def test_a_kernel_that_ignored_the_feature_would_be_caught(feature):
    call = call_with({feature})
    ignoring = replace(call, **WITHOUT[feature])
    output = reference.attention_rows(ignoring, torch.arange(call.num_tokens))
    assert error_of(call, output) > 2 * reference.TOLERANCE[torch.bfloat16]


@pytest.mark.parametrize("kernel", HERE, ids=lambda kernel: kernel.label)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("head_dim", [8, 32, 40, 48, 64, 80, 96, 128, 256])
def test_head_sizes_and_dtypes(kernel, head_dim, dtype):
    call = call_with({Feature.CAUSAL}, head_dim=head_dim, dtype=dtype)
    for form in FORMS:
        if form not in kernel.support.features:
            continue
        if head_dim in kernel.support.head_sizes and str(dtype)[6:] in kernel.support.dtypes:
            assert error_of(call, run_of(kernel, call, form)()) < reference.TOLERANCE[dtype]
        else:
            with pytest.raises(Unsupported, match=f"head size {head_dim}: "):
                bare(kernel, call, form)


@pytest.mark.parametrize("page_size", [1, 16, 32, 48, 64, 96])
@pytest.mark.parametrize(
    "kernel", [k for k in HERE if Feature.PAGED in k.support.features], ids=lambda k: k.label
)
def test_page_sizes(kernel, page_size):
    call = call_with({Feature.CAUSAL})
    if page_size in kernel.support.page_sizes:
        output = run_of(kernel, call, Feature.PAGED, page_size)()
        assert error_of(call, output) < reference.TOLERANCE[torch.bfloat16]
    else:
        cache = call.key.new_zeros(20, 2, page_size, 128)
        with pytest.raises(Unsupported, match=f"block size {page_size}: .* takes multiples of 32"):
            kernel.paged(call, PagedKV(cache, torch.zeros(1, 10, dtype=torch.int32)))


@pytest.mark.parametrize("kernel", HERE, ids=lambda kernel: kernel.label)
def test_one_output_buffer_serves_calls_of_other_dtypes(kernel):
    calls = [call_with({Feature.CAUSAL}, dtype=dtype) for dtype in (torch.bfloat16, torch.float32)]
    form = Feature.DENSE if Feature.DENSE in kernel.support.features else Feature.PAGED
    for call in (*calls, calls[0]):
        assert error_of(call, run_of(kernel, call, form)()) < reference.TOLERANCE[call.query.dtype]


def test_an_output_is_kept_as_long_as_it_fits():
    output, query = Output(), torch.zeros(2, 3, 4).transpose(0, 1)
    first = output.like(query)
    assert first.is_contiguous()
    assert output.like(query) is first
    assert output.like(query.half()).dtype == torch.float16


@pytest.mark.parametrize(
    ("label", "features", "page_size", "words"),
    [
        ("FA2 func", {Feature.CAUSAL}, 256, "flash_attn_func takes no block table"),
        ("FA2 func", {Feature.SINKS}, None, "flash_attn_func takes no attention sinks"),
        ("FA2 func", {Feature.RAGGED}, None, "requests of different lengths: "),
        ("FA2 qkvpacked", {Feature.GQA}, None, "as many KV heads as query heads; this model has 2 and 4"),
        ("FA2 with_kvcache", {Feature.CAUSAL}, 16, "block size 16: flash_attn_with_kvcache takes multiples"),
        ("FA2 with_kvcache", {Feature.CAUSAL}, 256, "runs on an NVIDIA GPU only"),
        ("vLLM FA3", {Feature.ALIBI}, 16, "takes no ALiBi slopes"),
        ("vLLM Triton", {Feature.LOPSIDED}, None, "takes no window of unequal sides without a causal mask"),
        ("vLLM Triton", {Feature.SYMMETRIC}, 16, "off on the right where"),
        ("vLLM Triton", {Feature.ALIBI, Feature.FULL}, 16, "no ALiBi slopes together with attention without"),
        ("FlashInfer ragged", {Feature.ALIBI}, None, "FlashInfer computes its own ALiBi slopes"),
        ("SDPA flash", {Feature.SOFTCAP, Feature.WINDOW}, None, "no sliding window and no logit soft-cap"),
    ],
)
def test_refusals_say_what_and_why(label, features, page_size, words):
    assert words in (refusal(KERNELS[label], call_with(features), page_size) or "")


def test_a_block_table_can_mean_fewer_head_sizes():
    kernel, call = KERNELS["FA4"], call_with({Feature.CAUSAL}, head_dim=256)
    assert "takes 16, 32, 48, 64, 80, 96, 112, 128 with a block table" in (refusal(kernel, call, 16) or "")
    assert "head size" not in (refusal(kernel, call) or "")
    assert "head size" not in (refusal(KERNELS["vLLM FA4"], call, 16) or "")


@pytest.mark.parametrize("label", ["FA4", "vLLM FA4"])
def test_a_tile_that_a_block_table_does_not_reach_all_of_is_refused(label):
    def refused(feature, head_dim, page_size=16):
        found = refusal(KERNELS[label], call_with({feature}, head_dim=head_dim), page_size) or ""
        return "block table together with attention without a causal mask for heads of 80 and 96" in found

    assert [dim for dim in range(16, 129, 16) if refused(Feature.FULL, dim)] == [80, 96]
    assert not refused(Feature.CAUSAL, 96)
    assert not refused(Feature.FULL, 96, page_size=None)


@pytest.mark.parametrize(
    "kernel", [k for k in KERNELS.values() if k not in HERE], ids=lambda kernel: kernel.label
)
def test_what_cannot_run_here_is_refused_when_asked(kernel):
    call = call_with({Feature.CAUSAL})
    with pytest.raises(Unsupported, match=r"NVIDIA GPU only|block table only|no K and V without"):
        kernel.dense(call, DenseKV(call.key, call.value))
    with pytest.raises(Unsupported, match=r"NVIDIA GPU only|block table"):
        kernel.paged(call, paged(kernel, call, 256))


@pytest.mark.parametrize(
    ("backend", "fa_version", "name", "provider"),
    [
        ("TRITON_ATTN", None, "unified_attention", "vLLM Triton"),
        ("FLASH_ATTN", 3, "flash_attn_varlen_func", "vLLM FA3"),
        ("FLASH_ATTN", 4, "flash_attn_varlen_func", "vLLM FA4"),
        ("FLEX_ATTENTION", None, "FLEX_ATTENTION", "vLLM"),
    ],
)
def test_the_engines_kernel_is_found_by_its_backend(backend, fa_version, name, provider):
    call = replace(call_with({Feature.CAUSAL}), backend=backend, fa_version=fa_version)
    engine = for_engine(call)
    assert (engine.name, engine.provider) == (name, provider)
    with pytest.raises(Unsupported, match=r"no adapter for the engine's FLEX_ATTENTION|NVIDIA GPU only"):
        engine.paged(call, PagedKV(call.key.new_zeros(1, 2, 32, 128), torch.zeros(1, 1, dtype=torch.int32)))


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_one_block_finds_every_token_where_it_is(lengths):
    """The addresses are those of vLLM's Triton kernel: block id and offset times the first two strides."""
    call = call_with({Feature.CAUSAL}, lengths=lengths)
    fused = torch.cat([call.query, call.key, call.value], dim=1)  # K and V are views, as in gpt2
    kv = DenseKV(fused[:, 2:4], fused[:, 4:])
    table = vllm_triton.starts_of(call.query_start_loc)
    for cache, tensor in zip(vllm_triton.one_block(kv), (kv.key, kv.value), strict=True):
        assert max(lengths) <= cache.shape[1]  # the block size
        for request, length in enumerate(lengths):
            start = int(call.query_start_loc[request])
            for token in range(length):
                offset = cache.storage_offset() + int(table[request, 0]) * cache.stride(0)
                row = fused.flatten()[offset + token * cache.stride(1) :][: tensor[0].numel()]
                assert row.equal(tensor[start + token].flatten())


def test_a_missing_package_comes_with_the_way_to_get_it():
    package = Package("no_such_module", "pip install no-such-package", also=("neither_this",))
    support = replace(KERNELS["SDPA math"].support, package=package)
    reason = unavailable(support, "cpu")
    assert reason == ("no_such_module and neither_this not installed; to get it: pip install no-such-package")
    with pytest.raises(Unsupported, match="No module named 'no_such_module'"):
        load(package)


def test_what_a_build_refuses_keeps_its_words_and_running_out_of_memory_its_kind():
    def build():
        raise RuntimeError("This flash attention build does not support softcap.\nmore")

    with pytest.raises(Unsupported, match=r"SDPA math|does not support softcap\.$"):
        try_once(build, KERNELS["SDPA math"])
    with pytest.raises(RuntimeError, match="memory"):
        try_once(lambda: torch.empty(1 << 60), KERNELS["SDPA math"])


@pytest.mark.parametrize(
    ("sizes", "taken", "refused", "words"),
    [
        (Sizes(), [1, 7], [], "any"),
        (Sizes(multiple_of=8, largest=256), [8, 256], [4, 264], "multiples of 8 to 256"),
        (Sizes(smallest=32), [32, 33], [31], "any from 32"),
        (Sizes(only=(64, 128)), [64], [96], "64, 128"),
    ],
)
def test_sizes(sizes, taken, refused, words):
    assert all(size in sizes for size in taken)
    assert not any(size in sizes for size in refused)
    assert str(sizes) == words
