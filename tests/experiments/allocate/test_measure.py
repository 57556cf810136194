"""`python -m harness allocate`: the whole way in a process of its own, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness.workloads.layouts import read_layouts

ROOT = Path(__file__).resolve().parents[3]


def allocate(*argv: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", "allocate", *map(str, argv)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.engine
def test_a_run_keeps_every_request_s_layout(tmp_path):
    run = tmp_path / "run"
    done = allocate(
        "--requests", 40, "--num-blocks", "1100,4", "--block-size", 16, "--order", "stock,longest",
        "--enable-prefix-caching", "--output-dir", run,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((run / "summary.json").read_text())
    stock, longest, *lost = summary["cells"]
    assert [row["status"] for row in lost] == ["unsupported"] * 2
    assert longest["segments_per_block"] < stock["segments_per_block"]
    assert stock["requests"] == 40
    for row in (stock, longest):
        layouts = read_layouts(run / row["layouts"])
        assert (layouts.block_size, layouts.num_blocks, len(layouts.requests)) == (16, 1100, 40)
        blocks = sum(len(each.block_ids) for each in layouts.requests)
        assert row["blocks_per_segment"] == pytest.approx(blocks / sum(r.segments for r in layouts.requests))
    again = allocate("--requests", 5, "--order", "sorted", "--output-dir", run, "--overwrite", "--quiet")
    assert again.returncode == 0, again.stderr[-3000:]
    assert [path.name for path in run.glob("layouts*")] == ["layouts-sorted-16-16384.jsonl.gz"]


@pytest.mark.parametrize(
    ("content", "argv", "problem"),
    [
        ("A text\n", [], "holds texts, whose numbers of tokens depend on a model; name a trace, or prompts "
                         "as token ids"),
        ('{"prompt": "a"}\n', [], "holds prompts, whose numbers of tokens depend on a model; name a trace, "
                                  "or prompts as token ids"),
        ('{"input_length": 0}\n', [], "line 1: input_length 0: must be a whole number, 1..16777216 (1 of 1 "
                                      "line wrong; at most 1% may be)"),
        ("[1]\n", ["--order", "random"], "--order random: must be stock, sorted or longest"),
        ("[1]\n", ["--num-blocks", "1"], "--num-blocks 1: must be within 2..4194304, of which vLLM keeps "
                                         "one"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line_before_anything_loads(content, argv, problem, tmp_path):
    (tmp_path / "work").write_text(content)
    done = allocate("--prompts", tmp_path / "work", *argv)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.endswith(problem)
