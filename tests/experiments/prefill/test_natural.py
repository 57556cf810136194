"""Layouts that traffic made, as points of the main job's sweep: chosen, placed, measured and reported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import layout
from harness.config import ConfigError
from harness.experiments.prefill import natural
from harness.experiments.prefill.options import RunConfig, resolve
from harness.workloads.layouts import Layouts, RequestLayout, write_layouts
from tests.made_up import prefill
from tests.made_up.views import document_from, summary_of

ROOT = Path(__file__).resolve().parents[3]
POOL = 64
RISING, TWO, FALLING = [*range(1, 11)], [*range(6, 11), *range(20, 25)], [*range(40, 30, -1)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Of a trace whose requests of ten blocks lie in 1, 2 and 10 segments, half of them in 2."""
    ids = [RISING, TWO, TWO, TWO, FALLING, [1]]
    requests = tuple(RequestLayout(None, 32 * len(each), tuple(each)) for each in ids)
    write_layouts(tmp_path / "layouts.jsonl.gz", Layouts(32, POOL, "a trace, stock", requests))
    return tmp_path / "layouts.jsonl.gz"


def config(**options: Any) -> RunConfig:
    return RunConfig(**{"length": 300, "block_size": 32} | options)


def test_typical_layouts_join_the_sweep_and_one_in_one_segment_is_the_baseline(file: Path) -> None:
    assert resolve(config(spread_k=[1, 4], layouts=file), "cpu").spreads() == [1, 2, 4, 10]
    found = natural.read(file, 10, 32)
    assert {k: each.percentiles for k, each in found.items()} == {2: (50,), 10: (90,)}
    assert found[10].block_ids == tuple(FALLING)
    shorter = natural.read(file, 4, 32)  # the first four of its blocks
    assert {k: [*each.block_ids] for k, each in shorter.items()} == {4: FALLING[:4]}


def test_a_layout_is_placed_among_free_blocks_with_its_segments(file: Path) -> None:
    (ids,) = natural.read(file, 10, 32)[2].plan([*range(50, 100)])
    assert [segment.length for segment in layout.segments(ids)] == [5, 5]
    assert {*ids} <= {*range(50, 100)}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (
            {"block_size": 64},
            "made with blocks of 32 tokens, not 64; add --block-size 32, or make layouts with",
        ),
        ({"length": 400}, "no request has 13 blocks of 32 tokens, the largest has 10"),
        ({"batch": "2x64"}, "takes one prompt; leave --batch out"),
        ({"from_captures": Path("captures")}, "is for an engine's cache; leave it or --from-captures out"),
        ({"layouts": Path("none.gz")}, "--layouts none.gz: cannot be read: No such file or directory"),
    ],
)
def test_what_does_not_fit_the_prompt_is_refused(file: Path, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        resolve(config(**{"layouts": file} | options), "cpu")


def test_the_report_says_what_they_cost() -> None:
    made = {"8": {"percentiles": [50.0, 90.0], "source": "a trace, stock"}}
    record = prefill.record() | {"natural_layouts": made}
    summary = summary_of(record, prefill.results())
    document = document_from(record, summary)
    (table,) = (t for part in document.parts for t in part.tables if t.title == "Layouts that traffic made")
    (whole,) = (section for section in table.sections if section.heading == "whole prefill")
    (row,) = (
        row
        for row in summary["contrasts"]
        if (row["kernel"], row["treatment"], row["spread_k"]) == ("prefill", "paged", 8)
    )
    assert whole.lines[0].label == "p50, p90"
    assert whole.lines[0].cells[:2] == ("8", "0.250")
    assert whole.lines[0].cells[2].startswith(f"{row['delta_pct']:+.2f}%")
    assert document.advice[0].startswith("The layout that traffic makes (8 segments) changes the prefill by ")
    assert "traffic" not in document_from(prefill.record(), summary).markdown()


@pytest.mark.engine
def test_a_run_replays_them_in_the_engine(tiny_gpt2: Path, file: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    command = [
        sys.executable, "run_vllm_prefill.py", "--model", tiny_gpt2, "--length", 300, "--block-size", 32,
        "--enforce-eager", "--spread-k", 1, "--repeats", 6, "--layers", 0, "--no-synthetic",
        "--no-attribution", "--layouts", file, "--output-dir", output,
    ]  # fmt: skip
    done = subprocess.run([*map(str, command)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((output / "run.json").read_text())
    assert record["spread_k"] == [1, 2, 10]
    assert {k: each["percentiles"] for k, each in record["natural_layouts"].items()} == {
        "2": [50],
        "10": [90],
    }
    (falling,) = record["block_ids"]["10"]
    ids = layout.from_ranges(falling)
    assert ids == sorted(ids, reverse=True)
    summary = json.loads((output / "summary.json").read_text())
    statuses = {row["status"] for row in summary["end_to_end"] if row["spread_k"] in (2, 10)}
    assert statuses == {"ok"}
    assert "Layouts that traffic made" in (output / "tables.md").read_text()
