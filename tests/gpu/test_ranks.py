"""Two ranks on two GPUs, by both of vLLM's executors, as a user runs them."""

from __future__ import annotations

import importlib.util
import json

import pytest

from harness import device
from tests.gpu.jobs import harness, record_of, summary_of

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(len(device.nvidia_devices()) < 2, reason="needs two GPUs"),
]


@pytest.mark.parametrize("executor", ["mp", "ray"])
def test_gpt2_past_its_positions(executor, tmp_path):
    if executor == "ray" and importlib.util.find_spec("ray") is None:
        pytest.skip("needs Ray")
    done = harness(
        "prefill", "--model", "gpt2", "--length", 2048, "--layers", "0,11", "--spread-k", "1,4,128",
        "--repeats", 5, "--enforce-eager", "--tensor-parallel-size", 2,
        "--distributed-executor-backend", executor, "--tables", "all", "--output-dir", tmp_path,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert "Actor" not in done.stderr, "Ray is shut down before the interpreter exits"
    record, summary = record_of(tmp_path), summary_of(tmp_path)
    kernels = summary["kernels"]
    assert record["model"]["num_heads"] == 6
    assert {row["rank"] for row in kernels} == {0, 1}
    assert {row["status"] for row in kernels} == {"ok"}, {row["reason"] for row in kernels}
    arms = {row["arm"]: row["status"] for row in summary["end_to_end"]}
    assert arms.keys() >= {"engine", "paged", "dense", "no_write", "compact", "spin"}
    assert set(arms.values()) == {"ok"}
    assert "\nRanks\n" in done.stdout
    clocks = [json.loads(line)["series"] for line in (tmp_path / "clocks.jsonl").read_text().splitlines()]
    assert {name.rpartition(" ")[2] for name in clocks} >= {"rank=0", "rank=1"}
