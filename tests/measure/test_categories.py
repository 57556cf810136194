"""Categories of the names that real traces hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from harness.measure.categories import CATEGORIES, LONGEST_NAME, category, short_name

TRACES = yaml.safe_load(Path(__file__).with_name("trace_names.yaml").read_text(encoding="utf-8"))
NAMES = [
    (*next(iter(entry.items())), expected) if isinstance(entry, dict) else (entry, None, expected)
    for of_device in TRACES.values()
    for expected, entries in of_device.items()
    for entry in entries
]


@pytest.mark.parametrize(("name", "short", "expected"), NAMES, ids=[name[:60] for name, *_ in NAMES])
def test_names_of_real_traces(name, short, expected):
    assert category(name) == expected
    assert short in (None, short_name(name))


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


def test_a_long_name_is_cut():
    (name,) = (name for name, *_ in NAMES if name.endswith("segment_k_off_kernel__5x_cublas"))
    assert short_name(name) == name[: LONGEST_NAME - 1] + "…"
    assert len(short_name(name)) == LONGEST_NAME
