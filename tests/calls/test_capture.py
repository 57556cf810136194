"""Captures: cloning what the engine reuses, and files that are told apart from what they are not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from harness.calls import capture, headers
from harness.calls.capture import clone_together
from harness.config import ConfigError
from tests.attention_calls import make_call


@given(st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), st.integers(0, 4))
def test_views_of_a_fused_projection_keep_their_strides_and_one_storage(tokens, heads, groups, skipped):
    dim = 4
    q, kv = heads * groups * dim, heads * dim
    fused = torch.arange((tokens + skipped) * (q + 2 * kv), dtype=torch.float32).view(-1, q + 2 * kv)
    query, key, value = (x[skipped:] for x in fused.split([q, kv, kv], dim=-1))
    clones = clone_together([query, key, value])
    for view, clone in zip((query, key, value), clones, strict=True):
        assert torch.equal(view, clone)
        assert view.stride() == clone.stride()
    assert len({clone.untyped_storage().data_ptr() for clone in clones}) == 1
    assert clones[0].untyped_storage().nbytes() == 4 * sum(clone.numel() for clone in clones)


def test_views_with_others_in_between_are_copied_alone():
    fused = torch.arange(24.0).view(4, 6)
    left, right = clone_together([fused[:, :2], fused[:, 4:]])
    assert torch.equal(left, fused[:, :2])
    assert torch.equal(right, fused[:, 4:])
    assert left.is_contiguous()
    assert left.untyped_storage().nbytes() == 4 * left.numel()


def test_clones_do_not_follow_the_original():
    original = torch.zeros(3, 2)
    (clone,) = clone_together([original])
    original += 1
    assert clone.sum() == 0


@pytest.fixture
def folder(tmp_path):
    """Captures of layers 0 and 2."""
    for layer in (0, 2):
        save(tmp_path / f"layer-{layer}.safetensors", layer=layer)
    return tmp_path


def save(path: Path, layer: int = 0, length: int = 40, block_size: int = 32) -> None:
    call = make_call(length, heads=1, kv_heads=1, head_dim=4, block_size=block_size)
    capture.save(replace(call, layer=layer), path)


def rewrite(path: Path, change) -> None:
    """Put what `change` makes of our metadata into a file's header."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    meta = header["__metadata__"]
    meta["attention_call"] = json.dumps(change(json.loads(meta["attention_call"])))
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def test_shapes_are_read_from_what_save_wrote(folder):
    assert headers.read_shapes(folder) == headers.CaptureShapes((40,), 32, (0, 2))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda whole: b"",
        lambda whole: b"x" * 100,
        lambda whole: whole[:50],
        lambda whole: whole[:-1],
        lambda whole: whole + b"x",
        lambda whole: (2).to_bytes(8, "little") + b"{}",
        lambda whole: (2).to_bytes(8, "little") + b"[]",
        lambda whole: whole.replace(b"attention_call", b"attention_cell"),
    ],
)
def test_a_file_that_is_no_whole_capture_is_named(folder, spoil):
    path = folder / "layer-2.safetensors"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ConfigError, match=r"layer-2\.safetensors: not a saved attention call \(.*--save"):
        headers.read_shapes(folder)
    with pytest.raises(capture.CaptureError, match=r"layer-2\.safetensors: not a saved attention call"):
        capture.load(path, "cpu")


def test_a_capture_of_another_format_or_with_other_fields_is_refused(folder):
    path = folder / "layer-2.safetensors"
    rewrite(path, lambda meta: meta | {"call": meta["call"] | {"more": 1}})
    with pytest.raises(capture.CaptureError, match="not a saved attention call"):
        capture.load(path, "cpu")
    rewrite(path, lambda meta: meta | {"format": 9})
    with pytest.raises(capture.CaptureError, match="format 9, but this version reads 1"):
        capture.load(path, "cpu")
    with pytest.raises(ConfigError, match="format 9, but this version reads 1"):
        headers.read_shapes(folder)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"layer": 3, "length": 50}, "50 tokens in blocks of 32, unlike layer-0"),
        ({"layer": 3, "block_size": 16}, "40 tokens in blocks of 16, unlike layer-0"),
        ({"layer": 2}, r"of layer 2, like layer-2\.safetensors; remove"),
    ],
)
def test_captures_that_do_not_go_together_are_refused(folder, other, message):
    save(folder / "other.safetensors", **other)
    with pytest.raises(ConfigError, match=r"other\.safetensors: " + message):
        headers.read_shapes(folder)


def test_a_folder_without_captures_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no \*\.safetensors there"):
        headers.read_shapes(tmp_path)


def test_a_disk_that_is_full_leaves_no_half_capture(tmp_path, monkeypatch):
    def save_half(tensors, path, metadata):
        path.write_bytes(b"half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(capture, "save_file", save_half)
    with pytest.raises(capture.CaptureError, match=r"layer-000.safetensors: cannot be written: .*No space"):
        capture.save(make_call(1), tmp_path / "layer-000.safetensors")
    assert not list(tmp_path.iterdir())
