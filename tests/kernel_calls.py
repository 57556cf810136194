"""Calls that ask for chosen features, and a kernel's output on them held against the float32 reference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from harness.calls.capture import AttentionCall
from harness.kernels import DenseKV, PagedKV, Run, reference
from harness.kernels.listed import Listed
from harness.kernels.support import Feature
from tests.attention_calls import make_call

SHORT, LONG, HEAD_DIM = 37, 150, 64
FORMS = (Feature.DENSE, Feature.PAGED)
SOFTCAP, SCALE, WINDOW = 2.0, 0.3, 9


def lengths_for(features: Iterable[Feature]) -> tuple[int, ...]:
    """Lengths in tokens of the requests that the features ask for."""
    asked = set(features)
    if Feature.RAGGED in asked:
        return (SHORT, LONG, 1)
    return (LONG, LONG) if Feature.BATCH in asked else (LONG,)


def call_with(
    features: Iterable[Feature],
    *,
    head_dim: int = HEAD_DIM,
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cpu",
    page_size: int = 32,
    lengths: Sequence[int] | None = None,
) -> AttentionCall:
    """A random call with these features; causal and with a KV head per query head unless they say else."""
    asked = set(features)
    lengths = lengths or lengths_for(asked)
    heads = 4 if asked & {Feature.GQA, Feature.MQA} else 2
    kv_heads = 1 if Feature.MQA in asked else 2
    call = make_call(
        sum(lengths), heads=heads, kv_heads=kv_heads, head_dim=head_dim, block_size=page_size, dtype=dtype,
        device=device,
    )  # fmt: skip
    starts = torch.tensor([0, *lengths]).cumsum(0)
    generator = torch.Generator().manual_seed(7)
    right = {Feature.SYMMETRIC: WINDOW, Feature.LOPSIDED: 3, Feature.WINDOW: 0}
    windows = [(WINDOW, right[feature]) for feature in right if feature in asked]
    return replace(
        call,
        query_start_loc=starts.int().to(device),
        seq_lens=torch.tensor(lengths, dtype=torch.int32, device=device),
        causal=not asked & {Feature.FULL, Feature.SYMMETRIC, Feature.LOPSIDED},
        scale=SCALE if Feature.SCALE in asked else head_dim**-0.5,
        sliding_window=windows[0] if windows else (-1, -1),
        softcap=SOFTCAP if Feature.SOFTCAP in asked else 0.0,
        alibi_slopes=(0.5 ** torch.arange(1, heads + 1)).to(device) if Feature.ALIBI in asked else None,
        sinks=torch.randn(heads, generator=generator).to(device, torch.bfloat16)
        if Feature.SINKS in asked
        else None,
        isa="vec16" if head_dim % 32 else "vec",  # as vLLM's CPU backend chooses
    )


def run_of(kernel: Listed, call: AttentionCall, form: Feature, page_size: int = 32) -> Run:
    """The kernel bound to the call's K and V in one of the two FORMS, the blocks in a random order."""
    if form is Feature.DENSE:
        return kernel.dense(call, DenseKV(call.key, call.value))
    return kernel.paged(call, paged(kernel, call, page_size))


def paged(kernel: Listed, call: AttentionCall, page_size: int) -> PagedKV:
    """The call's K and V in a cache, in the physical order of the kernel's engine; unused slots are 1e4."""
    lengths = call.seq_lens.tolist()
    most = -(-max(lengths) // page_size)
    ids = torch.randperm(len(lengths) * most, generator=torch.Generator().manual_seed(3)) + 1
    table = ids.view(len(lengths), most)
    slots = torch.cat([
        table[r, torch.arange(n) // page_size] * page_size + torch.arange(n) % page_size
        for r, n in enumerate(lengths)
    ]).to(call.key.device)  # fmt: skip
    shape = (len(ids) + 1, call.num_kv_heads, page_size, 2 * call.head_dim)
    if kernel.label == "vLLM CPU":
        cache = call.key.new_zeros(shape)
        kernel.kernel.write_cache(call, cache, slots)  # type: ignore[attr-defined]
    else:
        rows = call.key.new_full((shape[0] * page_size, shape[1], shape[3]), 1e4)
        rows[slots] = torch.cat([call.key, call.value], dim=-1)
        cache = rows.view(shape[0], page_size, shape[1], shape[3]).transpose(1, 2)
    return PagedKV(cache, table.int().to(call.key.device))


def error_of(call: AttentionCall, output: torch.Tensor) -> float:
    """Relative error against float32, over all query rows."""
    rows = torch.arange(call.num_tokens, device=output.device)
    return reference.relative_error(call, output, rows, reference.attention_rows(call, rows))
