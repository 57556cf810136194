"""Captures from other people: each is sound in all that a kernel relies on, or refused in one line."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from harness.calls import capture, headers
from harness.calls.capture import CaptureError
from harness.config import ConfigError
from tests.attention_calls import make_call

Tensors = dict[str, torch.Tensor]
JUNK = st.sampled_from(
    [
        None,
        True,
        -1,
        0,
        1,
        7,
        2**31,
        10**30,
        0.5,
        -16,
        1e308,
        "",
        "0",
        "evil",
        "../../x",
        [],
        {},
        [1, 2],
        [[1, 2, 3], 0],
    ]
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A capture of two requests in a cache of 9 blocks."""
    path = tmp_path_factory.mktemp("captures") / "layer-0.safetensors"
    call = make_call(lengths=[40, 70], heads=2, kv_heads=1, head_dim=8)
    qkv = torch.randn(110, 4, 8)
    call = replace(
        call,
        query=qkv[:, :2],
        key=qkv[:, 2:3],
        value=qkv[:, 3:],
        output=torch.zeros(110, 2, 8),
        cache_shape=(9, 1, 32, 16),
        cache_dtype="float32",
        alibi_slopes=torch.ones(2),
        scheduler_metadata=torch.ones(5, dtype=torch.int32),
    )
    capture.save(call, path)
    return path


def rewrite(saved: Path, path: Path, change: Callable[[Tensors, dict[str, Any]], None]) -> Path:
    """A copy with changed tensors and metadata."""
    with safe_open(saved, framework="pt") as file:
        meta = json.loads(file.metadata()[headers.META_KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, meta)
    save_file(tensors, path, metadata={headers.META_KEY: json.dumps(meta)})
    return path


def test_a_sound_capture_comes_back_without_what_a_kernel_chooses_again(saved: Path, tmp_path: Path) -> None:
    """Its instruction set may be another CPU's, and its instructions would end the process here."""
    call = capture.load(rewrite(saved, tmp_path / "layer.safetensors", say("isa", "amx")), "cpu")
    assert (call.scheduler_metadata, call.isa) == (None, None)
    assert call.query.stride() == (32, 8, 1)
    assert headers.check(saved) == (0, (40, 70), 32)


def put(name: str, value: Any) -> Callable[[Tensors, dict[str, Any]], None]:
    def change(tensors: Tensors, meta: dict[str, Any]) -> None:
        tensors[name] = value(tensors[name]) if callable(value) else value

    return change


def say(name: str, value: Any) -> Callable[[Tensors, dict[str, Any]], None]:
    return lambda tensors, meta: meta["call"].update({name: value})


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("query", torch.Tensor.double), "query|F64"),
        (put("key", torch.Tensor.half), "of different data types"),
        (put("key", lambda t: t.to(torch.int8)), "key: I8; must be"),
        (put("query", lambda t: t[:, 0].clone()), "query and key: must have"),
        (put("key", torch.zeros(110, 3, 8)), "2 query heads of 8 on 3"),
        (put("value", torch.zeros(110, 1, 4)), "value: of shape"),
        (put("output", torch.zeros(110, 2, 4)), "output: of shape"),
        (put("output", torch.zeros(1)), "output: of shape"),
        (put("seq_lens", ints(40, 71)), "lengths do not match"),
        (put("seq_lens", ints(111, -1)), "lengths do not match"),
        (put("seq_lens", ints(110)), "query_start_loc: of shape|block_table"),
        (put("query_start_loc", ints(0, 10**9, 110)), "query_start_loc: is not the sum"),
        (put("query_start_loc", ints(0, -40, 110)), "query_start_loc: is not the sum"),
        (put("query_start_loc", torch.Tensor.long), "query_start_loc: I64; must be I32"),
        (put("block_table", lambda t: t + 9), r"block_table: must be of the cache's blocks, 0\.\.8"),
        (put("block_table", lambda t: t - 5), "block_table: must be of the cache"),
        (put("block_table", lambda t: t[:, :1].clone()), "block_table: 1 blocks wide"),
        (put("slot_mapping", lambda t: t + 9 * 32), r"slot_mapping: must be of the cache's slots, 0\.\.287"),
        (put("slot_mapping", lambda t: t[:-1].clone()), "slot_mapping: of shape"),
        (put("alibi_slopes", torch.ones(3)), "alibi_slopes: of shape"),
        (put("more", torch.ones(3)), "more: no such tensor"),
        (lambda tensors, meta: tensors.pop("seq_lens"), "seq_lens: is missing"),
        (say("block_size", -16), "block_size: "),
        (say("block_size", 16), "cache_shape: must be of blocks of 16"),
        (say("layer", 10**30), "layer: "),
        (say("layer", "0"), "layer: "),
        (say("isa", "evil"), "isa: "),
        (say("backend", "../../x"), "backend: "),
        (say("cache_dtype", "object"), "cache_dtype: "),
        (say("scale", float("nan")), "scale: must be finite"),
        (say("fa_version", 1), "fa_version: "),
        (lambda t, meta: meta["strides"].update(query=[[0, 0, 0], 0]), "strides.query: values overlap"),
        (lambda t, meta: meta["strides"].update(query=[[32, 8, 1], 5000]), "strides.query: beyond"),
        (lambda t, meta: meta["strides"].update(query=[[-32, 8, 1], 0]), "strides.query"),
        (lambda t, meta: meta["strides"].pop("key"), "strides: must be of"),
    ],
)  # fmt: skip
def test_what_a_kernel_could_not_take_is_refused_without_torch_and_named(
    change: Any, message: str, saved: Path, tmp_path: Path
) -> None:
    path = rewrite(saved, tmp_path / "layer.safetensors", change)
    with pytest.raises(
        ConfigError, match=rf"layer\.safetensors: not a saved attention call \(.*({message})"
    ) as error:
        headers.read_shapes(tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(CaptureError, match=message):
        capture.load(path, "cpu")


@pytest.mark.parametrize("name", ["query", "key", "value", "output", "alibi_slopes"])
def test_a_value_that_is_no_number_is_refused_before_any_kernel_sees_it(
    name: str, saved: Path, tmp_path: Path
) -> None:
    path = rewrite(
        saved, tmp_path / "layer.safetensors", put(name, lambda t: t.index_fill(0, ints(1).long(), torch.inf))
    )
    with pytest.raises(CaptureError, match=rf"layer\.safetensors: {name}: must be finite"):
        capture.load(path, "cpu")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_not_waited_for(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "layer.safetensors")
    with pytest.raises(ConfigError, match=r"layer\.safetensors: not a regular file"):
        headers.read_shapes(tmp_path)


@pytest.mark.fuzz
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_spoiled_header_is_refused_or_loads_a_sound_call(
    data: st.DataObject, saved: Path, tmp_path: Path
) -> None:
    content = saved.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    meta = json.loads(header["__metadata__"][headers.META_KEY])
    inside = data.draw(
        st.sampled_from([header, header["query"], header["seq_lens"], meta, meta["call"], meta["strides"]])
    )
    inside[data.draw(st.sampled_from(sorted(inside)))] = copy.deepcopy(data.draw(JUNK))
    if isinstance(header.get("__metadata__"), dict):
        header["__metadata__"][headers.META_KEY] = json.dumps(meta)
    text = json.dumps(header).encode()
    path = tmp_path / "layer.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
    try:
        call = capture.load(path, "cpu")
    except CaptureError:
        return
    assert call.query_start_loc.tolist() == [0, 40, 110]
    assert call.query.shape == call.output.shape == (110, 2, 8)


def test_every_field_of_a_call_is_checked() -> None:
    checked = {*headers._MUST, *headers._MAY, *headers._Plain.model_fields}
    assert {field.name for field in fields(capture.AttentionCall)} - checked == {"kv_cache"}
