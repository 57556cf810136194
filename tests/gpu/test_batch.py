"""Several prompts in one step by the main job, single tokens among them, in an order vLLM would not keep."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_each_prompt_has_its_own_blocks(tmp_path):
    command = [
        sys.executable, "run_vllm_prefill.py", "--model", "gpt2", "--batch", "1x700,3x100@2,2x1",
        "--layers", "0", "--spread-k", "1,8", "--repeats", "5", "--enforce-eager",
        "--gpu-memory-utilization", "0.2", "--output-dir", str(tmp_path / "run"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    for rows in (summary["kernels"], summary["end_to_end"]):
        assert {row["status"] for row in rows} <= {"ok", "unsupported"}, {row["reason"] for row in rows}
    assert {row["status"] for row in summary["end_to_end"]} == {"ok"}
