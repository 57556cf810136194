"""A sweep on real GPUs: both points finish, each on one GPU alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_two_flash_attention_versions(tmp_path):
    file, directory = tmp_path / "sweep.yaml", tmp_path / "out"
    file.write_text(
        "base: {model: gpt2, length: 1024, layers: [0], spread_k: [1, 64], repeats: 8, enforce_eager: true}\n"
        "grid: {flash_attn_version: [2, 3]}"
    )
    command = [sys.executable, "-m", "harness", "sweep", str(file), "--output-dir", str(directory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    points = json.loads((directory / "summary.json").read_text())["points"]
    assert [point["options"]["flash_attn_version"] for point in points] == [2, 3]
    for point in points:
        assert point["attribution"]["engine_ms"] > 0
        assert json.loads((directory / point["name"] / "run.json").read_text())["device"]["count"] == 1
