"""The experiment `workload` on a GPU, its engine in a process of its own: steps, their graphs, arms."""

from __future__ import annotations

import pytest

from tests.gpu.jobs import LITTLE_MEMORY, harness, summary_of

WORK = ("--num-prompts", 64, "--lengths", "8,200", "--max-model-len", 512, "--max-num-batched-tokens", 512)


@pytest.mark.parametrize(
    "options",
    ["--model smollm2-135m --task generate", "--model qwen3-0.6b --task embed --load-format dummy"],
)
def test_every_arm_gives_stock_s_answers_and_steps_have_times_of_their_own(options, tmp_path):
    harness(
        "workload",
        *options.split(),
        *WORK,
        "--repeats",
        6,
        "--quiet",
        *LITTLE_MEMORY,
        "--output-dir",
        tmp_path,
    )
    summary = summary_of(tmp_path)
    assert {row["status"] for row in summary["arms"]} == {"ok"}, {row["reason"] for row in summary["arms"]}
    kinds = {(row["arm"], row["kind"]): row for row in summary["kinds"]}
    assert ("stock", "chunk") in kinds
    assert {kind for arm, kind in kinds if arm == "whole"} == {"pure prefill"}
    for row in kinds.values():
        assert row["mean_us"] > 0
        assert row["attention_pct"] is None or 0 < row["attention_pct"] < 100
    assert all(step["graph"] in ("NONE", "PIECEWISE", "FULL") for step in summary["steps"])
