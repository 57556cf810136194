"""Saved captures, checked without torch: what a folder of them holds, and that no kernel could be misled."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import prod
from pathlib import Path
from typing import IO, Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from harness import batch, files
from harness.config import ConfigError
from harness.units import MIB

FORMAT_VERSION = 1
META_KEY = "attention_call"  # of the entry in a safetensors header that is ours
MOST_HEADER_BYTES = MIB
QKV = ("query", "key", "value")
ITEM_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "I8": 1, "U8": 1, "I32": 4, "I64": 8}
_FLOATS = ("BF16", "F16", "F32")
# Those that there may be, with their data types; the others there must be.
_MAY = {"alibi_slopes": ("F32",), "sinks": _FLOATS, "scheduler_metadata": tuple(ITEM_BYTES)}
_MUST = {
    "query": (*_FLOATS, "F8_E4M3"), "key": _FLOATS, "value": _FLOATS, "output": _FLOATS,
    "block_table": ("I32",), "slot_mapping": ("I64",), "seq_lens": ("I32",), "query_start_loc": ("I32",),
}  # fmt: skip

Size = Annotated[int, Field(ge=0, le=2**40)]
Pair = Annotated[tuple[int, int], BeforeValidator(lambda two: tuple(two) if isinstance(two, list) else two)]
Window = Annotated[int, Field(ge=-1, le=2**31 - 1)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Tensor(_Strict):
    """A tensor's entry in the header."""

    dtype: Literal["BF16", "F16", "F32", "F8_E4M3", "I8", "U8", "I32", "I64"]
    shape: list[Size] = Field(max_length=4)
    data_offsets: Pair  # bytes, from the header's end


class _Plain(_Strict):
    """An AttentionCall's fields that are no tensors."""

    layer: int = Field(ge=0, le=10_000)
    layer_name: str = Field(max_length=500)
    backend: Literal["FLASH_ATTN", "TRITON_ATTN", "CPU_ATTN"]  # those with an adapter
    qkv_strides: list[list[Size]] = Field(max_length=3)
    block_size: int = Field(ge=1, le=65536)
    scale: float = Field(gt=0, le=1e6)
    causal: bool
    sliding_window: list[Window] = Field(min_length=2, max_length=2)
    softcap: float = Field(ge=0, le=1e6)
    cache_shape: list[Size] = Field(max_length=4)
    cache_strides: list[Size] = Field(max_length=4)
    cache_dtype: Literal["bfloat16", "float16", "float32", "uint8", "int8", "float8_e4m3fn", "float8_e5m2"]
    fa_version: Literal[2, 3, 4] | None
    isa: Literal["amx", "vec", "vec16", "neon", "rvv", "vxe", "vsx"] | None
    max_num_splits: int = Field(ge=0, le=256)
    kv_cache_dtype: str = Field("auto", max_length=50)  # not in older files
    # Tensors that there may be; null here where there is none.
    alibi_slopes: None = None
    sinks: None = None
    scheduler_metadata: None = None


class _Meta(_Strict):
    """Our entry in the header."""

    format: Literal[1]
    call: _Plain
    strides: dict[str, tuple[list[Size], Size]]  # of query, key and value: strides, and offset in elements
    fused: bool  # whether the three share one storage


@dataclass(frozen=True)
class CaptureShapes:
    """What the captures in a folder have in common, and their layers."""

    lengths: tuple[int, ...]  # tokens of each request, in the order of the step
    block_size: int  # tokens per block of the engine's KV cache
    layers: tuple[int, ...]  # ascending


def read_shapes(folder: Path) -> CaptureShapes:
    """The shapes of the *.safetensors in `folder`.

    Raises:
        ConfigError: there are none, one cannot be replayed, two are of one layer, or they differ in lengths
            or block size; the message names the file.
    """
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ConfigError(f"--from-captures {folder}: no *.safetensors there; make them with --save-captures")
    by_layer: dict[int, Path] = {}
    shapes = set()
    for path in paths:
        try:
            layer, lengths, block_size = check(path)
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: {error}; make it again with --save-captures") from error
        if layer in by_layer:
            raise ConfigError(f"{path}: of layer {layer}, like {by_layer[layer].name}; remove one of them")
        by_layer[layer] = path
        shapes.add((lengths, block_size))
        if len(shapes) > 1:
            raise ConfigError(
                f"{path}: {', '.join(map(str, lengths))} tokens in blocks of {block_size}, unlike "
                f"{paths[0].name}; put each run's captures into a folder of their own"
            )
    ((lengths, block_size),) = shapes
    return CaptureShapes(lengths, block_size, tuple(sorted(by_layer)))


def check(path: Path) -> tuple[int, tuple[int, ...], int]:
    """Layer, lengths of the requests and block size of one file, after checking all but its floats.

    Raises OSError, or ValueError in one line, if a kernel could not take the call.
    """
    with files.open_regular(path) as file:
        try:
            metadata, tensors, start = _read_header(file)
            meta = _meta(metadata)
            _check_tensors(tensors, meta)
            names = ("block_table", "slot_mapping", "seq_lens", "query_start_loc")
            values = {name: _integers(file, start, tensors[name]) for name in names}
            lengths = _check_metadata(values, tensors, meta.call)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
            key = ".".join(map(str, problem["loc"]))
            raise ValueError(f"not a saved attention call ({files.shorten(key)}: {problem['msg']})") from None
        except _OtherFormat:
            raise
        except ValueError as error:
            raise ValueError(f"not a saved attention call ({error})") from None
    return meta.call.layer, lengths, meta.call.block_size


class _OtherFormat(ValueError):
    """A format that another version wrote."""


def _read_header(file: IO[bytes]) -> tuple[object, dict[str, _Tensor], int]:
    """A safetensors file's metadata, its tensors and where its data starts; raises ValueError if it is
    incomplete.
    """
    size = file.seek(0, 2)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > size - 8:
        raise ValueError("its header is cut short")
    if length > MOST_HEADER_BYTES:
        raise ValueError(f"its header is larger than {MOST_HEADER_BYTES // MIB} MiB")
    header = files.parse_json(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its header is no object")
    metadata = header.pop("__metadata__", None)
    tensors = TypeAdapter(dict[str, _Tensor]).validate_python(header)
    end = 8 + length + max((tensor.data_offsets[1] for tensor in tensors.values()), default=0)
    if size != end:
        raise ValueError(f"{size} bytes long, its header says {end}")
    return metadata, tensors, 8 + length


def _meta(metadata: object) -> _Meta:
    text = metadata.get(META_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise ValueError(f"its header has no {META_KEY}")
    data = files.parse_json(text)
    written = data.get("format") if isinstance(data, dict) else None
    if isinstance(written, int) and written != FORMAT_VERSION:
        raise _OtherFormat(f"format {str(written)[:20]}, but this version reads {FORMAT_VERSION}")
    if isinstance(data, dict) and isinstance(strides := data.get("strides"), dict):
        data["strides"] = {n: tuple(s) if isinstance(s, list) else s for n, s in strides.items()}
    return _Meta.model_validate(data)


def _check_tensors(tensors: Mapping[str, _Tensor], meta: _Meta) -> None:
    """Raise ValueError unless there are all tensors, of the right types, and their shapes agree."""
    for name in {**_MUST, **tensors}:
        if name not in tensors:
            raise ValueError(f"{name}: is missing")
        if name not in _MUST | _MAY:
            raise ValueError(f"{files.shorten(name)}: no such tensor")
        tensor, allowed = tensors[name], (_MUST | _MAY)[name]
        if tensor.dtype not in allowed:
            raise ValueError(f"{name}: {tensor.dtype}; must be {' or '.join(allowed)}")
        first, end = tensor.data_offsets
        if first < 0 or end - first != prod(tensor.shape) * ITEM_BYTES[tensor.dtype]:
            raise ValueError(f"{name}: its data is not as long as its shape says")
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    if len({dtypes["key"], dtypes["value"], dtypes["output"]} | ({dtypes["query"]} - {"F8_E4M3"})) > 1:
        raise ValueError("query, key, value and output: of different data types")
    if len(shapes["query"]) != 3 or len(shapes["key"]) != 3 or not all(shapes["query"] + shapes["key"]):
        raise ValueError("query and key: must have tokens, heads and elements per head")
    (tokens, heads, head_dim), kv_heads = shapes["query"], shapes["key"][1]
    if heads > 4096 or head_dim > 4096 or heads % kv_heads:
        raise ValueError(f"{heads} query heads of {head_dim} on {kv_heads} of K and V")
    requests = shapes["seq_lens"][0] if shapes["seq_lens"] else 0
    if not 1 <= requests <= batch.MOST_REQUESTS:
        raise ValueError(f"{requests} requests; must be 1..{batch.MOST_REQUESTS}")
    expected = {
        "key": [tokens, kv_heads, head_dim], "value": [tokens, kv_heads, head_dim], "output": shapes["query"],
        "slot_mapping": [tokens], "seq_lens": [requests], "query_start_loc": [requests + 1],
        "alibi_slopes": [heads], "sinks": [heads],
    }  # fmt: skip
    for name, shape in expected.items():
        if name in shapes and shapes[name] != shape:
            raise ValueError(f"{name}: of shape {shapes[name]}; must be {shape}")
    if len(shapes["block_table"]) != 2 or shapes["block_table"][0] != requests:
        raise ValueError(f"block_table: of shape {shapes['block_table']}; must be of {requests} requests")
    _check_strides(meta, shapes)


def _check_strides(meta: _Meta, shapes: Mapping[str, list[int]]) -> None:
    """Raise ValueError unless Q, K and V lie, each value at a place of its own, in what is made for them."""
    if meta.strides.keys() != set(QKV):
        raise ValueError(f"strides: must be of {', '.join(QKV)}")
    together = sum(prod(shapes[name]) for name in QKV)
    for name in QKV if meta.fused else ():
        strides, offset = meta.strides[name]
        outer = sorted(zip(strides, shapes[name], strict=False), reverse=True)
        reach = 1
        for stride, size in reversed([each for each in outer if each[1] > 1]):
            if stride < reach:
                raise ValueError(f"strides.{name}: values overlap")
            reach = stride * (size - 1) + reach
        if len(strides) != 3 or offset + reach > together:
            raise ValueError(f"strides.{name}: beyond the {together} values of Q, K and V")


def _check_metadata(
    values: Mapping[str, tuple[int, ...]], tensors: Mapping[str, _Tensor], call: _Plain
) -> tuple[int, ...]:
    """The requests' lengths; raises ValueError unless the step's metadata fits them and the cache."""
    from harness import layout  # NumPy

    lengths, tokens = values["seq_lens"], tensors["query"].shape[0]
    if min(lengths) < 1 or max(lengths) > batch.LONGEST or sum(lengths) != tokens:
        raise ValueError(f"its requests' lengths do not match its queries, of {tokens} tokens")
    if values["query_start_loc"] != (0, *accumulate(lengths)):
        raise ValueError("query_start_loc: is not the sum of the lengths before")
    if call.backend == "FLASH_ATTN" and call.fa_version is None:
        raise ValueError("call.fa_version: must be 2, 3 or 4 for FLASH_ATTN")
    if call.cache_shape and (len(call.cache_shape) != 4 or call.cache_shape[2] != call.block_size):
        raise ValueError(f"call.cache_shape: must be of blocks of {call.block_size} tokens")
    width = tensors["block_table"].shape[1]
    counts = [layout.num_blocks(length, call.block_size) for length in lengths]
    if width < max(counts):
        raise ValueError(f"block_table: {width} blocks wide; the longest request has {max(counts)}")
    in_cache = call.cache_shape[0] if call.cache_shape else 2**31
    if min(values["block_table"]) < 0 or max(values["block_table"]) >= in_cache:
        raise ValueError(f"block_table: must be of the cache's blocks, 0..{in_cache - 1}")
    if min(values["slot_mapping"]) < 0 or max(values["slot_mapping"]) >= in_cache * call.block_size:
        raise ValueError(f"slot_mapping: must be of the cache's slots, 0..{in_cache * call.block_size - 1}")
    return lengths


def _integers(file: IO[bytes], start: int, tensor: _Tensor) -> tuple[int, ...]:
    """The numbers of a tensor in a safetensors file whose data starts there."""
    first, end = tensor.data_offsets
    file.seek(start + first)
    code = {"I32": "i", "I64": "q"}[tensor.dtype]
    return struct.unpack(f"<{prod(tensor.shape)}{code}", file.read(end - first))
