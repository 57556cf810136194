"""What a folder of saved captures holds, read from the files' headers without torch."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import ConfigError

FORMAT_VERSION = 1
META_KEY = "attention_call"  # of the entry in a safetensors header that is ours


@dataclass(frozen=True)
class CaptureShapes:
    """What the captures in a folder have in common, and their layers."""

    lengths: tuple[int, ...]  # tokens of each request, in the order of the step
    block_size: int  # tokens per block of the engine's KV cache
    layers: tuple[int, ...]  # ascending


def read_shapes(folder: Path) -> CaptureShapes:
    """The shapes of the *.safetensors in `folder`.

    Raises:
        ConfigError: there are none, one is incomplete, two are of one layer, or they differ in lengths or
            block size; the message names the file.
    """
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ConfigError(f"--from-captures {folder}: no *.safetensors there; make them with --save-captures")
    files: dict[int, Path] = {}
    shapes = set()
    for path in paths:
        layer, lengths, block_size = _read_call(path)
        if layer in files:
            raise ConfigError(f"{path}: of layer {layer}, like {files[layer].name}; remove one of them")
        files[layer] = path
        shapes.add((lengths, block_size))
        if len(shapes) > 1:
            raise ConfigError(
                f"{path}: {', '.join(map(str, lengths))} tokens in blocks of {block_size}, unlike "
                f"{paths[0].name}; put each run's captures into a folder of their own"
            )
    ((lengths, block_size),) = shapes
    return CaptureShapes(lengths, block_size, tuple(sorted(files)))


def _read_call(path: Path) -> tuple[int, tuple[int, ...], int]:
    """Layer, lengths of the requests and block size of one file."""
    try:
        header, start = _read_header(path)
        meta = json.loads(header["__metadata__"][META_KEY])
        version, call = meta["format"], meta["call"]
        lengths = _read_int32(path, start, header["seq_lens"])
        values = int(call["layer"]), lengths, int(call["block_size"])
        if sum(lengths) != int(header["query"]["shape"][0]) or min(lengths) < 1:
            raise ValueError(f"its requests' lengths {lengths} do not match its queries")
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ConfigError(
            f"{path}: not a saved attention call ({type(error).__name__}: {error}); make it again with "
            "--save-captures"
        ) from error
    if version != FORMAT_VERSION:
        raise ConfigError(
            f"{path}: format {version}, but this version reads {FORMAT_VERSION}; make it again with "
            "--save-captures"
        )
    return values


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's header and where its data starts; raises ValueError if it is incomplete."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            raise ValueError("its header is cut short")
        header: dict[str, Any] = json.loads(file.read(length))
    end = max(tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__")
    if size != 8 + length + end:
        raise ValueError(f"{size} bytes long, its header says {8 + length + end}")
    return header, 8 + length


def _read_int32(path: Path, start: int, entry: dict[str, Any]) -> tuple[int, ...]:
    """The numbers of an int32 tensor in a safetensors file whose data starts there."""
    first, end = entry["data_offsets"]
    with path.open("rb") as file:
        file.seek(start + first)
        return struct.unpack(f"<{(end - first) // 4}i", file.read(end - first))
