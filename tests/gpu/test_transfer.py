"""The experiment `transfer`: vLLM's own copies, pinned memory, and another GPU where there is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.gpu.jobs import harness, summary_of

SMALL = "--length 2048 --num-layers 4 --block-size 16 --spread-k 1,16,128 --max-seconds 5 --quiet"


@pytest.mark.parametrize(
    "options",
    ["", "--kv-layouts stacked --dtype float32", "--layer-tensors together --l2 warm", "--falling"],
)
def test_every_way_moves_every_byte_or_says_why_not(options: str, tmp_path: Path) -> None:
    harness("transfer", *SMALL.split(), *options.split(), "--output-dir", tmp_path)
    cells = summary_of(tmp_path)["cells"]
    told = {(row["direction"], row["kernel"]): (row["status"], row["reason"]) for row in cells}
    host = {key: said for key, said in told.items() if key[0] != "to_peer"}
    assert {key[1] for key, (status, _) in host.items() if status != "ok"} == {"gather_nccl"}, told


def test_the_next_gpu_is_reached_where_there_is_one(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    gpus = torch.cuda.device_count()
    status = 0 if gpus > 1 else 1
    harness("transfer", *SMALL.split(), "--directions", "to_peer", "--output-dir", tmp_path, status=status)
    cells = summary_of(tmp_path)["cells"]
    if gpus < 2:
        assert {row["reason"] for row in cells} == {"a transfer between GPUs needs two, this machine has 1"}
        return
    told = {row["kernel"]: row["status"] for row in cells}
    for way in ("contiguous", "copy_blocks", "copy_merged", "gather_copy", "gather_nccl"):
        assert told[way] == "ok", told
    assert told["swap_triton"] == told["swap_blocks"] == "unsupported"
