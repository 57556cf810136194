"""AttentionCall: what one layer's attention receives in one engine step, and its file format."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from harness import layout
from harness.calls import headers
from patches.attention import cpu_isa


class CaptureError(ValueError):
    """A capture cannot be read, or this kind of layer cannot be captured."""


@dataclass(frozen=True)
class AttentionCall:
    """One layer's attention in one prefill step of one or more requests.

    Tensors live on the engine's device. `query`, `key`, `value` keep their strides from the engine where they
    tile one storage (gpt2's are views of one fused projection) and are contiguous otherwise; `qkv_strides`
    always has the engine's strides.
    """

    layer: int  # index among the model's attention layers
    layer_name: str  # vLLM's name of it
    backend: str  # vLLM's attention backend, e.g. FLASH_ATTN, TRITON_ATTN, CPU_ATTN
    query: torch.Tensor  # [tokens, num_heads, head_dim]
    key: torch.Tensor  # [tokens, num_kv_heads, head_dim]
    value: torch.Tensor  # [tokens, num_kv_heads, head_dim]
    output: torch.Tensor  # [tokens, num_heads, head_dim], as the engine's kernel wrote it
    block_table: (
        torch.Tensor
    )  # [requests, blocks] int32, as wide as the longest request needs; 0 past a request's own blocks
    slot_mapping: torch.Tensor  # [tokens] int64: block id * block_size + offset
    seq_lens: torch.Tensor  # [requests] int32
    query_start_loc: torch.Tensor  # [requests + 1] int32, cumulative
    qkv_strides: tuple[tuple[int, ...], ...]  # strides of query, key and value in the engine, in elements
    block_size: int
    scale: float
    causal: bool
    sliding_window: tuple[int, int]  # (left, right) tokens beside the query's own; (-1, -1): none
    softcap: float  # 0: none
    alibi_slopes: torch.Tensor | None  # [num_heads] float32
    sinks: torch.Tensor | None  # [num_heads]
    cache_shape: tuple[int, ...]  # of vLLM's cache tensor of this layer
    cache_strides: tuple[int, ...]
    cache_dtype: str
    fa_version: int | None  # FlashAttention version the engine used
    isa: str | None  # instruction set of vLLM's CPU kernel
    scheduler_metadata: torch.Tensor | None  # what FlashAttention 3 prepared ahead of the step
    max_num_splits: int
    kv_cache_dtype: str = "auto"  # vLLM's name of what the cache stores; "auto": K and V as they are
    kv_cache: torch.Tensor | None = None  # vLLM's own cache tensor, not a copy; not saved

    @property
    def num_tokens(self) -> int:
        return int(self.query.shape[0])

    @property
    def num_heads(self) -> int:
        return int(self.query.shape[1])

    @property
    def num_kv_heads(self) -> int:
        return int(self.key.shape[1])

    @property
    def head_dim(self) -> int:
        return int(self.query.shape[2])

    @property
    def quantised(self) -> bool:
        """Whether the cache holds K and V in another data type than attention got them in."""
        return self.cache_dtype != str(self.key.dtype).removeprefix("torch.")

    @property
    def num_requests(self) -> int:
        return len(self.seq_lens)

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each request."""
        return tuple(self.seq_lens.tolist())

    @property
    def key_start_loc(self) -> torch.Tensor:
        """Where each request's K and V begin: [requests + 1] int32, cumulative; there may be more keys than
        queries.
        """
        if self.num_tokens == len(self.key):
            return self.query_start_loc
        ends = self.seq_lens.cumsum(0, dtype=torch.int32)
        return torch.cat([ends.new_zeros(1), ends])

    def block_ids(self, table: torch.Tensor) -> list[list[int]]:
        """Each request's own entries of a block table, [requests, blocks]."""
        rows = zip(table.tolist(), self.lengths, strict=True)
        return [row[: layout.num_blocks(length, self.block_size)] for row, length in rows]

    def shape_key(self) -> tuple[Any, ...]:
        """Equal for layers whose attention does the same work, whatever the values in the tensors."""
        return (
            self.backend, self.num_tokens, self.num_heads, self.num_kv_heads, self.head_dim,
            str(self.query.dtype), self.scale, self.causal, self.sliding_window, self.softcap,
            self.alibi_slopes is not None, self.sinks is not None, self.query.stride(), self.key.stride(),
        )  # fmt: skip


def from_engine(
    index: int,
    layer: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    kv_cache: torch.Tensor,
    metadata: Any,
    output: torch.Tensor,
) -> AttentionCall:
    """Copy the arguments of vLLM's `impl.forward`; its metadata tensors are buffers that the next step
    reuses.

    Raises:
        CaptureError: the layer keeps no paged K and V (encoder-only, MLA), so it has no layout to study.
    """
    impl, tokens = layer.impl, metadata.num_actual_tokens
    if kv_cache.ndim != 4 or not hasattr(metadata, "block_table"):
        raise CaptureError(
            f"{layer.layer_name}: {type(impl).__name__} keeps a cache of shape {tuple(kv_cache.shape)}, "
            "not blocks of K and V per head; encoder-only and MLA layers are out of scope"
        )
    strides = tuple(tuple(tensor.stride()) for tensor in (query, key, value))
    query, key, value = clone_together([query[:tokens], key[:tokens], value[:tokens]])
    table, seq_lens = trim_table(metadata, kv_cache.shape[2])
    return AttentionCall(
        layer=index,
        layer_name=layer.layer_name,
        backend=layer.attn_backend.get_name(),
        query=query,
        key=key,
        value=value,
        output=output[:tokens].reshape(query.shape[0], query.shape[1], -1).clone(),
        block_table=table,
        slot_mapping=metadata.slot_mapping[:tokens].clone(),
        seq_lens=seq_lens,
        query_start_loc=metadata.query_start_loc[: len(seq_lens) + 1].clone(),
        qkv_strides=strides,
        block_size=kv_cache.shape[2],
        scale=impl.scale,
        causal=bool(metadata.causal),
        sliding_window=_window(impl.sliding_window),
        softcap=float(impl.logits_soft_cap or 0.0),
        alibi_slopes=impl.alibi_slopes,
        sinks=impl.sinks,
        cache_shape=tuple(kv_cache.shape),
        cache_strides=tuple(kv_cache.stride()),
        cache_dtype=str(kv_cache.dtype).removeprefix("torch."),
        fa_version=getattr(impl, "vllm_flash_attn_version", None),
        isa=cpu_isa(layer),
        scheduler_metadata=_clone(getattr(metadata, "scheduler_metadata", None)),
        max_num_splits=int(getattr(metadata, "max_num_splits", 0)),
        kv_cache_dtype=str(layer.kv_cache_dtype),
        kv_cache=kv_cache,
    )


def outline(call: AttentionCall) -> AttentionCall:
    """The call without its data, for other processes: Q, K, V, output and cache on the meta device, which
    keeps shapes and strides; metadata on the CPU.
    """
    big = ("query", "key", "value", "output", "kv_cache")
    tensors = {f.name: v for f in fields(call) if isinstance(v := getattr(call, f.name), torch.Tensor)}
    return replace(call, **{n: _drop_data(t) if n in big else t.cpu() for n, t in tensors.items()})


def _drop_data(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


def trim_table(metadata: Any, block_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Copies of the block table ([requests, blocks in use]) and sequence lengths of a step.

    Past its request's own blocks a row holds leftovers of earlier requests in vLLM; here it is 0.
    """
    requests = len(metadata.query_start_loc) - 1
    seq_lens = metadata.seq_lens[:requests].clone()
    lengths = seq_lens.tolist()
    counts = [layout.num_blocks(length, block_size) for length in lengths]
    table = metadata.block_table[:requests, : max(counts)].clone(memory_format=torch.contiguous_format)
    for row, count in zip(table, counts, strict=True):
        row[count:] = 0
    return table, seq_lens


def one_request(call: AttentionCall, index: int) -> AttentionCall:
    """One request's part of a call, as views; without FlashAttention 3's schedule, which is for all
    requests.
    """
    start, length = sum(call.lengths[:index]), call.lengths[index]
    tokens, blocks = slice(start, start + length), layout.num_blocks(length, call.block_size)
    return replace(
        call,
        query=call.query[tokens],
        key=call.key[tokens],
        value=call.value[tokens],
        output=call.output[tokens],
        block_table=call.block_table[index : index + 1, :blocks].contiguous(),
        slot_mapping=call.slot_mapping[tokens],
        seq_lens=call.seq_lens[index : index + 1].clone(),
        query_start_loc=torch.tensor([0, length], dtype=torch.int32, device=call.query.device),
        scheduler_metadata=None,
    )


def clone_together(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Clone views, each byte once, keeping their strides where they tile one contiguous stretch of storage.

    Views that share a storage with others in between (so that keeping strides would copy more than
    the views hold) are cloned separately and become contiguous.
    """
    spans = [_span(tensor) for tensor in tensors]
    groups: dict[tuple[int, torch.dtype], list[int]] = {}
    for n, tensor in enumerate(tensors):
        groups.setdefault((tensor.untyped_storage().data_ptr(), tensor.dtype), []).append(n)
    clones: dict[int, torch.Tensor] = {}
    for members in groups.values():
        low, high = min(spans[n][0] for n in members), max(spans[n][1] for n in members)
        if high - low <= sum(tensors[n].numel() for n in members):
            base = torch.as_strided(tensors[members[0]], (high - low,), (1,), low).clone()
            for n in members:
                offset = spans[n][0] - low
                clones[n] = torch.as_strided(base, tensors[n].shape, tensors[n].stride(), offset)
        else:
            clones |= {n: tensors[n].clone(memory_format=torch.contiguous_format) for n in members}
    return [clones[n] for n in range(len(tensors))]


def save(call: AttentionCall, path: Path) -> None:
    """Write one call as safetensors, all of it or nothing; everything but `kv_cache` is kept.

    Raises CaptureError if the disk is full.
    """
    tensors, plain = {}, {}
    for field in fields(call):
        value = getattr(call, field.name)
        if isinstance(value, torch.Tensor):
            if field.name != "kv_cache":
                tensors[field.name] = value.contiguous()
        elif field.name != "kv_cache":
            plain[field.name] = value
    low = min(_span(t)[0] for t in (call.query, call.key, call.value))
    fused = len({t.untyped_storage().data_ptr() for t in (call.query, call.key, call.value)}) == 1
    strides = {n: [list(getattr(call, n).stride()), _span(getattr(call, n))[0] - low] for n in headers.QKV}
    meta = {"format": headers.FORMAT_VERSION, "call": plain, "strides": strides, "fused": fused}
    half = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")  # so that a half capture is not read
    try:
        save_file(tensors, half, metadata={headers.META_KEY: json.dumps(meta)})
        os.replace(half, path)
    except SafetensorError as error:
        raise CaptureError(f"{path}: cannot be written: {error}") from error
    finally:
        half.unlink(missing_ok=True)


def load(path: Path, device: str) -> AttentionCall:
    """Load a call from a file that may be anyone's, with its strides, onto `device`.

    What the kernels choose again here is left out: FlashAttention 3's schedule, as nobody can tell whether
    one that was handed over is sound, and the CPU kernel's instruction set, which this CPU may lack.

    Raises:
        CaptureError: the file is not a capture of this format, or one that no kernel could take.
    """
    try:
        headers.check(path)
        call = load_own(path, device)
    except (OSError, ValueError) as error:
        raise CaptureError(f"{path}: {error}") from error
    except SafetensorError as error:
        raise CaptureError(f"{path}: not a saved attention call ({error})") from error
    for name in ("query", "key", "value", "output", "alibi_slopes", "sinks"):
        tensor = getattr(call, name)
        if tensor is None:
            continue
        if not (tensor.float() if tensor.element_size() == 1 else tensor).isfinite().all():
            raise CaptureError(f"{path}: {name}: must be finite")
    return replace(call, scheduler_metadata=None, isa=None)


def load_own(path: Path, device: str) -> AttentionCall:
    """Load a call that a process of this run wrote, of whatever form, onto `device`."""
    with safe_open(path, framework="pt", device=device) as file:
        meta = json.loads(file.metadata()[headers.META_KEY])
        return _from_file(meta, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


def _from_file(meta: dict[str, Any], tensors: dict[str, torch.Tensor]) -> AttentionCall:
    """The call from a file's metadata and tensors, with q, k and v in one storage again if they were."""
    if meta["fused"]:
        base = tensors["query"].new_empty(sum(tensors[name].numel() for name in headers.QKV))
        for name in headers.QKV:
            stride, offset = meta["strides"][name]
            tensors[name] = torch.as_strided(base, tensors[name].shape, stride, offset).copy_(tensors[name])
    plain = meta["call"]
    for name in ("sliding_window", "cache_shape", "cache_strides"):
        plain[name] = tuple(plain[name])
    plain["qkv_strides"] = tuple(tuple(stride) for stride in plain["qkv_strides"])
    return AttentionCall(**plain | tensors)


def _span(tensor: torch.Tensor) -> tuple[int, int]:
    """First and one past the last element of the storage that a view touches."""
    start = tensor.storage_offset()
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return start, start + last + 1


def _clone(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.clone()


def _window(window: Any) -> tuple[int, int]:
    """FlashAttention keeps (left, right); the CPU backend keeps the window's size, own token included."""
    if window is None or window == -1:
        return (-1, -1)
    if isinstance(window, int):
        return (window - 1, 0)
    return (int(window[0]), int(window[1]))
