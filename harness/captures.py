"""What a folder of saved captures holds, read from the files' headers, without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import ConfigError

FORMAT_VERSION = 1
META_KEY = "attention_call"  # of the entry in a safetensors header that is ours


@dataclass(frozen=True)
class CaptureShapes:
    """What the captures of one folder have in common, and which layers they are of."""

    length: int  # tokens of each call
    block_size: int  # tokens per block of the engine's KV cache
    layers: tuple[int, ...]  # ascending


def read_shapes(folder: Path) -> CaptureShapes:
    """The shapes of the *.safetensors in `folder`.

    Raises:
        ConfigError: there are none, one is not a whole capture, two are of one layer, or they differ in
            length or block size; it names the file.
    """
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise ConfigError(f"--from-captures {folder}: no *.safetensors there; make them with --save-captures")
    files: dict[int, Path] = {}
    shapes = set()
    for path in paths:
        layer, length, block_size = _read_call(path)
        if layer in files:
            raise ConfigError(f"{path}: of layer {layer}, as {files[layer].name} is; remove one of them")
        files[layer] = path
        shapes.add((length, block_size))
        if len(shapes) > 1:
            raise ConfigError(
                f"{path}: {length} tokens in blocks of {block_size}, unlike {paths[0].name}; "
                "put the captures of each run into a folder of their own"
            )
    ((length, block_size),) = shapes
    return CaptureShapes(length, block_size, tuple(sorted(files)))


def _read_call(path: Path) -> tuple[int, int, int]:
    """Layer, length and block size of one file."""
    try:
        header = _read_header(path)
        meta = json.loads(header["__metadata__"][META_KEY])
        version, call = meta["format"], meta["call"]
        found = int(call["layer"]), int(header["query"]["shape"][0]), int(call["block_size"])
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise ConfigError(
            f"{path}: not a saved attention call ({type(error).__name__}: {error}); make it again with "
            "--save-captures"
        ) from error
    if version != FORMAT_VERSION:
        raise ConfigError(
            f"{path}: format {version}, this version reads {FORMAT_VERSION}; make it again with "
            "--save-captures"
        )
    return found


def _read_header(path: Path) -> dict[str, Any]:
    """A safetensors file's header; raises ValueError unless as many bytes follow it as it says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > size - 8:
            raise ValueError("its header is cut short")
        header: dict[str, Any] = json.loads(file.read(length))
    end = max(tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__")
    if size != 8 + length + end:
        raise ValueError(f"{size} bytes long, its header says {8 + length + end}")
    return header
