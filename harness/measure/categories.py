"""From the name of a kernel or an operator: which part of a prefill it is, and how to print it.

Names are those that CUPTI gives for GPU kernels as vLLM launches them on Hopper (its own, FlashAttention 2
and 3, FlashInfer, Triton, cuBLAS, CUTLASS, Inductor's, PyTorch's), and those that torch.profiler gives for
operators on a CPU.
"""

from __future__ import annotations

import re
from functools import lru_cache

ATTENTION = "attention"
CACHE_WRITE = "cache write"
MATRIX_PRODUCTS = "matrix products"
NORMS = "norms, activations, rope"
SAMPLING = "sampling"
COPIES = "copies"
OTHER = "other"
CATEGORIES = (ATTENTION, CACHE_WRITE, MATRIX_PRODUCTS, NORMS, SAMPLING, COPIES, OTHER)

# The first rule with a pattern found anywhere in the name, ignoring case, decides.
RULES: tuple[tuple[str, tuple[str, ...]], ...] = (
    # Inductor names a fused kernel after everything around it: a pointwise one may contain "addmm" or
    # "attention". The kernel's own kind comes first, and only templates (tem) multiply matrices.
    (ATTENTION, (r"triton_tem_\w*attention",)),
    (MATRIX_PRODUCTS, (r"triton_(tem|mm|bmm)_",)),
    (SAMPLING, (r"triton_[a-z]+_fused\w*_(argmax|softmax|log_softmax|exponential|multinomial|topk|sort)",)),
    (NORMS, (r"triton_[a-z]+_fused",)),
    # "flash" and "attn" are in the names of cache writes too.
    (CACHE_WRITE, (r"reshape_(and_)?cache", r"concat_and_cache", r"kv_cache_update", r"zero_kv_blocks")),
    # FlashAttention 3 is a cutlass::device_kernel.
    (
        ATTENTION,
        (
            r"flash::|flash_(fwd|attn|attention|mla)|FlashAttn|vllm_fa\d_C",
            r"prepare_varlen_num_blocks|scheduler_metadata",
            r"fmha|sdpa|scaled_dot_product",
            r"(unified|paged)_attention|reduce_segments|attention_with_kv_cache|(extend|decode)_attention",
            r"(Prefill|Decode)With\w*KV|MergeStates?|merge_attn_states",
            r"^_fwd_(grouped_)?kernel",
        ),
    ),
    # Norms may also be written with CUTLASS.
    (NORMS, (r"rms_?norm|layer_?norm|rotary|_rope|act_and_mul|(silu|gelu)\w*_and_mul",)),
    (
        MATRIX_PRODUCTS,
        (
            r"gemm|gemv|cutlass|nvjet|cublas|xmma|splitK_?reduce|marlin|machete",
            r"fused_moe|fused_experts",
            r"^aten::(linear|matmul|mm|addmm|_addmm_activation|bmm|baddbmm|mv|addmv|dot|einsum)$",
            r"mkldnn|onednn|scaled_mm|weight_packed_linear|bmm_cpu",
        ),
    ),
    # Expert routing and index preparation neither sample nor compute a layer.
    (OTHER, (r"moe_|gating|grouped_topk|arange|elementwise_kernel_with_index",)),
    (
        SAMPLING,
        (
            r"argmax|softmax|top_?k|multinomial|exponential|gumbel|sampl",
            r"RadixSort|MergeSort|^aten::sort$",
            r"penalt|logprob|_temperature_kernel|_min_p_kernel|bincount",
        ),
    ),
    (
        COPIES,
        (
            r"memcpy|memset|copy_kernel|BatchedCopy|FillFunctor",
            r"index_?select|gather|index_elementwise_kernel|swap_blocks|copy_blocks",
            r"^aten::(copy_|_to_copy|to|clone|contiguous|cat|stack|repeat|embedding|_?index\w*|scatter\w*)$",
            r"^aten::(fill_|zero_|zeros|ones|full|new_zeros)$",
        ),
    ),
    # Without fusion, residual sums, gates and rotations are PyTorch's elementwise kernels. On a
    # CPU, Inductor's loops (cpp_fused_*) are not operators: they count as the graph's own time.
    (
        NORMS,
        (
            r"elementwise_kernel|reduce_kernel|silu|gelu|relu|activation",
            r"CompiledFxGraph|cpp_fused",
            r"^aten::(add|sub|mul|div|neg|pow|square|sqrt|rsqrt|exp|sigmoid|tanh|sin|cos|mean|sum|var_mean)_?$",
        ),
    ),
)
_COMPILED = tuple((category, re.compile("|".join(patterns), re.IGNORECASE)) for category, patterns in RULES)

WRAPPERS = re.compile(r"^(cutlass::(device_kernel|Kernel2?)|flash::enable_sm\w+)<(?=[A-Za-z_])")
FUNCTORS = re.compile(r"\b(?!gpu_kernel_impl)(\w*Functor\w*|\w+_kernel_cuda|\w+KernelImpl|\w+Ops)\b")
COMPILED_GRAPH = re.compile(r"^## Call CompiledFxGraph .*")
LONGEST_NAME = 72


@lru_cache(maxsize=4096)
def category(name: str) -> str:
    """The category (one of CATEGORIES) of the GPU kernel, copy, fill or CPU operator of this name."""
    return next((category for category, pattern in _COMPILED if pattern.search(name)), OTHER)


@lru_cache(maxsize=4096)
def short_name(name: str) -> str:
    """The name without return type, arguments and template arguments, at most LONGEST_NAME characters.

    PyTorch's generic kernels keep the operation: "elementwise_kernel<direct_copy_kernel_cuda>".
    """
    if name.startswith(("Memcpy", "Memset")):
        return name
    bare = COMPILED_GRAPH.sub("CompiledFxGraph", name.removeprefix("void "))
    bare = bare.replace("(anonymous namespace)::", "").replace("at::native::", "")
    while WRAPPERS.match(bare):
        bare = WRAPPERS.sub("", bare)
    bare, *arguments = re.split("[<(>]", bare, maxsplit=1)
    if "elementwise_kernel" in bare or "reduce_kernel" in bare:
        bare += "".join(f"<{functor}>" for functor in FUNCTORS.findall("".join(arguments))[-1:])
    return bare if len(bare) <= LONGEST_NAME else bare[: LONGEST_NAME - 1] + "…"
