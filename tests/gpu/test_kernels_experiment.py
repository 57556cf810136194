"""The experiment `kernels`, with flash-attn's own functions: prefill, chunk and decode step."""

from __future__ import annotations

import pytest

from harness.config.kernel_names import KNOWN, WITHOUT_TABLE
from tests.gpu.jobs import harness, summary_of


@pytest.mark.parametrize(
    ("options", "statuses"),
    [
        ("--batch-size 2", {"ok"}),
        ("--block-size 16 --no-causal", {"ok"}),
        ("--seq-len-q 512 --num-kv-heads 3", {"ok", "unsupported"}),
        ("--seq-len-q 1 --batch-size 4", {"ok", "unsupported"}),
    ],
)
def test_points_are_right(options, statuses, tmp_path):
    pytest.importorskip("flash_attn")
    sweep = "--length 2048 --spread-k 1,4,8 --repeats 7 --quiet"
    harness("kernels", *sweep.split(), *options.split(), "--output-dir", tmp_path)
    cells = summary_of(tmp_path)["cells"]
    assert len(cells) == 3 * 6
    assert {row["status"] for row in cells} == statuses, {row["reason"] for row in cells}
    refused = {row["kernel"] for row in cells if row["status"] == "unsupported"}
    assert refused <= {"flash_attn_qkvpacked_func"}
    assert all(row["provider"].startswith("flash-attn 2") for row in cells)


@pytest.mark.parametrize("options", ["", "--seq-len-q 512 --num-kv-heads 4", "--seq-len-q 1 --batch-size 4"])
def test_every_kernel_is_right_or_says_why_not(options, tmp_path):
    shape = "--length 2048 --num-heads 8 --head-dim 128 --spread-k 1,8 --repeats 7 --quiet"
    names = ("--kernels", ",".join(KNOWN))
    harness("kernels", *names, *shape.split(), *options.split(), "--output-dir", tmp_path)
    cells = summary_of(tmp_path)["cells"]
    told = {(row["kernel"], row["arm"]): (row["status"], row["reason"]) for row in cells}
    assert {kernel for kernel, _ in told} == set(KNOWN)
    assert {status for status, _ in told.values()} <= {"ok", "unsupported"}, told
    assert all(reason for status, reason in told.values() if status == "unsupported")
    assert told["vllm-cpu", "fragmented"] == ("unsupported", "runs on a CPU only")
    here = {"vllm-fa2", "vllm-triton", "sdpa-math"}
    assert here <= {kernel for (kernel, _), (status, _) in told.items() if status == "ok"}, told
    gathered = {row["kernel"] for row in cells if row["gather_us"] is not None}
    assert "sdpa-math" in gathered <= set(WITHOUT_TABLE)
