"""Categories of the names that real traces hold."""

from __future__ import annotations

import pytest

from harness.measure.categories import (
    ATTENTION,
    CACHE_WRITE,
    CATEGORIES,
    COPIES,
    LONGEST_NAME,
    MATRIX_PRODUCTS,
    NORMS,
    OTHER,
    SAMPLING,
    category,
    short_name,
)

FA3 = (
    "void "
    "cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<flash::"
    "CollectiveMainloopFwdSm90<2, cute::tuple<cute::C<1>, cute::C<1>, cute::C<1> >, "
    "cute::tuple<cute::C<128>, cute::C<128>, cute::C<128> >, 128, cutlass::bfloat16_t, float, "
    "cutlass::arch::Sm90, true, false, false, true, true, false, false, true, true, true, false, "
    "false, cutlass::bfloat16_t, 1>, flash::VarlenDynamicPersistentTileScheduler<128, 128, 256> > > "
    ">(flash::FlashAttnFwdSm90<2>::Params)"
)
FA2 = (
    "void flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128, 64, 128, 4, false, false, "
    "cutlass::bfloat16_t, Flash_kernel_traits<128, 64, 128, 4, cutlass::bfloat16_t> >, true, false, "
    "false, false, true, false, true, false>(flash::Flash_fwd_params)"
)
FLASHINFER = (
    "void "
    "flashinfer::BatchPrefillWithPagedKVCacheKernel<flashinfer::KernelTraits<(flashinfer::MaskMode)1, "
    "(unsigned int)128>, flashinfer::PagedParams>(flashinfer::PagedParams)"
)
CACHE_KERNEL = (
    "void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16, __nv_bfloat16, "
    "(vllm::Fp8KVCacheDataType)0>(__nv_bfloat16 const*, __nv_bfloat16 const*, __nv_bfloat16*, "
    "__nv_bfloat16*, long const*, long)"
)
CUTLASS = (
    "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_128x128_32x4_tn_align8>(T1::Params)"
)
MUL = (
    "void at::native::vectorized_elementwise_kernel<4, at::native::BinaryFunctor<float, float, float, "
    "at::native::binary_internal::MulFunctor<float> >, std::array<char*, 3ul> >(int, "
    "at::native::BinaryFunctor<float, float, float, at::native::binary_internal::MulFunctor<float> >, "
    "std::array<char*, 3ul>)"
)
COPY = (
    "void at::native::elementwise_kernel<128, 4, "
    "at::native::gpu_kernel_impl_nocast<at::native::direct_copy_kernel_cuda(at::"
    "TensorIteratorBase&)::{lambda()#3}::operator()() const::{lambda()#12}::operator()() "
    "const::{lambda(c10::BFloat16)#1}>(at::TensorIteratorBase&)::{lambda(int)#1}>(int)"
)
ARGMAX = (
    "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::ArgMaxOps<float>, "
    "unsigned int, long, 4> >(at::native::ReduceOp<float, at::native::ArgMaxOps<float>, unsigned int, "
    "long, 4>)"
)
EXPONENTIAL = (
    "void at::native::(anonymous namespace)::distribution_elementwise_grid_stride_kernel<float, 4, "
    "at::native::templates::cuda::exponential_kernel<at::CUDAGeneratorImpl*>(at::TensorIteratorBase&, "
    "double)>(long)"
)
GATHER = (
    "void at::native::(anonymous namespace)::indexSelectLargeIndex<long, int, unsigned int, 2, 2, -2, "
    "true>(at::cuda::detail::TensorInfo<long, unsigned int>, long)"
)
FILL = (
    "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<int>, std::array<char*, "
    "1ul> >(int, at::native::FillFunctor<int>, std::array<char*, 1ul>)"
)
LAYER_NORM = (
    "void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<c10::BFloat16, float>(int, float)"
)
RMS_NORM = "void vllm::rms_norm_kernel<c10::BFloat16, 8, 2, true>(c10::BFloat16*, c10::BFloat16 const*, long)"
SPIN = "at::cuda::(anonymous namespace)::spin_kernel(long)"
SDPA_KERNEL = "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_3_64x64x64_kernel0_0"
LM_HEAD = (
    "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize128x128x64_execute_segment_k_off_kernel__5x_cublas"
)

ON_A_GPU = {
    ATTENTION: [
        FA3,
        FA2,
        FLASHINFER,
        SDPA_KERNEL,
        "void flash::prepare_varlen_num_blocks_kernel<1, true>(int, int, int const*, cutlass::FastDivmod)",
        "void cutlass::device_kernel<flash::FlashAttnFwdCombine<cute::tuple<cute::C<8>, cute::C<128> > > >()",
        "void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<64, 128, 128, 4> >(Flash_fwd_params)",
        "void flashinfer::PersistentVariableLengthMergeStatesKernel<8u, 16u, 8u, 4u>(__nv_bfloat16*)",
        "fmha_cutlassF_bf16_aligned_64x64_rf_sm80(PyTorchMemEffAttention::AttentionKernel::Params)",
        "kernel_unified_attention",
        "kernel_unified_attention_2d",
        "reduce_segments",
        "_fwd_kernel",
        "triton_tem_fused_flex_attention_0",
    ],
    CACHE_WRITE: [
        CACHE_KERNEL,
        "reshape_and_cache_kernel_flash",
        "void vllm::concat_and_cache_mla_kernel<__nv_bfloat16, __nv_bfloat16>(__nv_bfloat16 const*)",
    ],
    MATRIX_PRODUCTS: [
        CUTLASS,
        LM_HEAD,
        "nvjet_tst_128x256_64x4_1x2_h_bz_coopA_TNT",
        "nvjet_tst_64x64_64x8_2x1_v_bz_splitK_TNT",
        "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16, float, true>(int)",
        "void gemv2T_kernel_val<int, int, __nv_bfloat16, __nv_bfloat16, __nv_bfloat16, float, 128>(int)",
        "ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_stages_64x4_tn",
        "void cutlass::device_kernel<cutlass::gemm::kernel::GemmUniversal<cute::tuple<int, int> > >()",
        "triton_tem_fused_addmm_gelu_3",
        "triton_mm_0",
        "fused_moe_kernel",
        "void marlin::Marlin<__nv_bfloat16, 1l, 256, 4, 16, 4>(int4 const*)",
    ],
    NORMS: [
        MUL,
        LAYER_NORM,
        RMS_NORM,
        "triton_red_fused_add_addmm_embedding_native_layer_norm_0",
        "triton_poi_fused_mul_rocm_unquantized_gemm_silu_slice_0",
        "triton_per_fused__to_copy_add_mean_mul_pow_rsqrt_2",
        "triton_poi_fused_unified_attention_with_output_view_1",
        "void vllm::act_and_mul_kernel<c10::BFloat16, &(c10::BFloat16 vllm::silu_kernel<c10::BFloat16>())>()",
        "void vllm::rotary_embedding_kernel<c10::BFloat16, true>(long const*, c10::BFloat16*)",
        "kernel_cutlass_kernel_flashinfernormkernelsfused_add_rmsnormFusedAddRMSNormKernel_object_at_0",
    ],
    SAMPLING: [
        ARGMAX,
        EXPONENTIAL,
        "void at::native::(anonymous namespace)::cunn_SoftMaxForward<4, float, float, float>(float*)",
        "_topk_topp_kernel",
        "void flashinfer::sampling::TopKTopPSamplingFromProbKernel<1024u, float, int>(float*)",
        "triton_red_fused__to_copy_argmax_0",
    ],
    COPIES: [
        COPY,
        GATHER,
        FILL,
        "Memcpy HtoD (Pinned -> Device)",
        "Memcpy DtoD (Device -> Device)",
        "Memset (Device)",
        "void at::native::vectorized_gather_kernel<16, long>(char*, char*, long*, int, long, long)",
        "void at::native::(anonymous namespace)::CatArrayBatchedCopy_contig<float, 2>(float*)",
    ],
    OTHER: [
        SPIN,
        "_compute_slot_mapping_kernel",
        "_copy_page_indices_kernel",
        "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
        "void vllm::moe::topkGatingSoftmax<8, 64, 4, 16, int>(float const*)",
        "a kernel that nobody knows",
    ],
}
ON_A_CPU = {
    ATTENTION: [
        "_C::cpu_attention_with_kv_cache",
        "_C::get_scheduler_metadata",
        "vllm::unified_attention_with_output",
        "aten::_scaled_dot_product_flash_attention_for_cpu",
    ],
    CACHE_WRITE: ["_C::cpu_attn_reshape_and_cache", "vllm::unified_kv_cache_update"],
    MATRIX_PRODUCTS: [
        "aten::linear",
        "aten::mm",
        "aten::addmm",
        "_C::onednn_mm",
        "_C::weight_packed_linear",
        "mkldnn::_linear_pointwise",
    ],
    NORMS: [
        "aten::native_layer_norm",
        "_C::fused_add_rms_norm",
        "_C::rotary_embedding",
        "_C::silu_and_mul",
        "_C::gelu_tanh",
        "aten::gelu",
        "aten::add_",
        "## Call CompiledFxGraph fjkd2rg3ncadhwyw6uyf6k6pvpjoj5nibcqs42menyhmwbvbbuua ##",
    ],
    SAMPLING: ["aten::argmax", "_C::greedy_argmax", "aten::_softmax", "aten::exponential_"],
    COPIES: ["aten::copy_", "aten::_to_copy", "aten::index_select", "aten::_index_put_impl_", "aten::fill_"],
    OTHER: [
        "aten::view",
        "aten::empty",
        "_C::compute_slot_mapping_kernel_impl",
        "Torch-Compiled Region: 0/0",
    ],
}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param(name, expected, id=name[:60])
        for group in (ON_A_GPU, ON_A_CPU)
        for expected, names in group.items()
        for name in names
    ],
)
def test_names_of_real_traces(name, expected):
    assert category(name) == expected


def test_the_record_s_names_in_the_record_s_order():
    assert CATEGORIES == (
        "attention",
        "cache write",
        "matrix products",
        "norms, activations, rope",
        "sampling",
        "copies",
        "other",
    )


@pytest.mark.parametrize(
    ("name", "short"),
    [
        (FA3, "flash::FlashAttnFwdSm90"),
        (FA2, "flash::flash_fwd_splitkv_kernel"),
        (CACHE_KERNEL, "vllm::reshape_and_cache_flash_kernel"),
        (CUTLASS, "cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_128x128_32x4_tn_align8"),
        (MUL, "vectorized_elementwise_kernel<MulFunctor>"),
        (COPY, "elementwise_kernel<direct_copy_kernel_cuda>"),
        (ARGMAX, "reduce_kernel<ArgMaxOps>"),
        (GATHER, "indexSelectLargeIndex"),
        (SPIN, "at::cuda::spin_kernel"),
        ("Memcpy HtoD (Pinned -> Device)", "Memcpy HtoD (Pinned -> Device)"),
        ("## Call CompiledFxGraph fjkd2rg3ncadhwyw6u ##", "CompiledFxGraph"),
        ("aten::mm", "aten::mm"),
        ("triton_red_fused_add_addmm_0", "triton_red_fused_add_addmm_0"),
    ],
)
def test_short_names(name, short):
    assert short_name(name) == short


def test_a_long_name_is_cut():
    assert short_name(LM_HEAD) == LM_HEAD[: LONGEST_NAME - 1] + "…"
    assert len(short_name(LM_HEAD)) == LONGEST_NAME
