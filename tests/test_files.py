"""Files from elsewhere: nothing that never ends is waited for, nothing without bounds is read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import files
from harness.units import MIB

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize(
    "read", [files.read_bytes, files.read_text, lambda path: list(files.read_lines(path, 1))]
)
def test_what_is_no_regular_file_is_refused_at_once(
    make: Callable[[Path], Any], read: Callable[[Path], Any], tmp_path: Path
) -> None:
    make(tmp_path / "file")
    with pytest.raises(ValueError, match="not a regular file"):
        read(tmp_path / "file")


def test_more_bytes_than_are_read_of_such_a_file_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * MIB)
    assert len(files.read_bytes(file, MIB)) == MIB
    with pytest.raises(ValueError, match=r"larger than 0\.5 MiB"):
        files.read_bytes(file, MIB // 2)
    with file.open("wb") as sparse:  # a terabyte that takes no room
        sparse.truncate(1 << 40)
    with pytest.raises(ValueError, match="line 1: longer than 16 MiB"):
        list(files.read_lines(file, 10))


def test_text_that_is_not_utf_8_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"one\ntwo\n\xff\n")
    with pytest.raises(ValueError, match="line 3: not UTF-8 text"):
        files.read_text(tmp_path / "file")


def test_lines_end_before_one_that_was_cut_short_and_at_the_most(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1\n2\n3")
    assert list(files.read_lines(tmp_path / "file", 2)) == [b"1\n", b"2\n"]
    with pytest.raises(ValueError, match="more than 1 lines"):
        list(files.read_lines(tmp_path / "file", 1))


@pytest.mark.fuzz
@given(PLAIN)
def test_plain_json_comes_back(data: Any) -> None:
    assert files.parse_json(json.dumps(data)) == data


@pytest.mark.fuzz
@given(PLAIN, st.sampled_from(["NaN", "Infinity", "-Infinity", "1e999"]))
def test_a_number_that_is_none_is_refused_wherever_it_is(data: Any, number: str) -> None:
    text = f'{{"a": [{json.dumps(data)}, {{"b": {number}}}]}}'
    with pytest.raises(ValueError, match=r"^a\.1\.b: must be finite"):
        files.parse_json(text)
    files.parse_json(text, finite=False)


@pytest.mark.parametrize("depth", [files.DEEPEST + 2, 900, 200_000])
@pytest.mark.parametrize("around", [("[", "]"), ('{"a":', "}")])
def test_deep_nesting_is_refused(depth: int, around: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        files.parse_json(around[0] * depth + "1" + around[1] * depth)


@pytest.mark.fuzz
@given(st.text() | st.binary())
def test_whatever_is_no_json_is_one_error(text: str | bytes) -> None:
    with suppress(ValueError):
        files.parse_json(text)


@pytest.mark.fuzz
@given(st.text(max_size=300))
def test_shortened_text_holds_nothing_that_a_terminal_obeys(text: str) -> None:
    assert files.shorten(text).isprintable()
    assert len(files.shorten(text)) <= 123


def test_a_path_leads_out_through_a_link_or_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "in").symlink_to("file")
    (tmp_path / "run" / "out").symlink_to("../other")
    inside = {
        name: files.leads_out(tmp_path / "run" / name, tmp_path / "run") for name in ("in", "out", "..")
    }
    assert inside == {"in": False, "out": True, "..": True}
