"""The experiment `cache` by subprocess: vLLM finds what is expected, and outputs agree."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("options", ["--length 1000 --shares 0,50,100", "--length 1 --shares 100"])
def test_hits_are_as_expected_and_the_output_is_right(options, tmp_path):
    small = "--model gpt2 --prompts 2 --repeats 7 --gpu-memory-utilization 0.2 --quiet"
    command = [sys.executable, "-m", "harness", "cache", *small.split(), *options.split()]
    done = subprocess.run(
        [*command, "--output-dir", tmp_path], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    cells = json.loads((tmp_path / "summary.json").read_text())["cells"]
    assert {row["status"] for row in cells} == {"ok"}, {row["reason"] for row in cells}
    for row in cells:
        assert row["hit_rate_pct"] == row["expected_rate_pct"], row
