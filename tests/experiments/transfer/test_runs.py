"""The command on this machine: a run, its files, and what a run of the main job adds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness import layout
from harness.experiments.transfer.descriptors import RISING_OR_FALLING, merge
from harness.experiments.transfer.policy import TransferPolicy
from harness.runs.store import RunDirectory
from harness.workloads.layouts import Layouts, RequestLayout, write_layouts
from tests.made_up import builder
from tests.made_up.builder import Builder, write_run

ROOT = Path(__file__).resolve().parents[3]
SMALL = "--length 128 --num-layers 2 --num-kv-heads 2 --head-dim 16 --block-size 16 --repeats 7 --quiet"
MODEL = {"name": "tiny", "num_layers": 3, "num_kv_heads": 2, "head_dim": 16}
PREFILL = {"experiment": "prefill", "status": "finished", "config": {"length": 128}}


def command(*words: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "harness", "transfer", *SMALL.split(), *map(str, words)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)


def prefill_run(folder: Path, length: int = 128) -> Path:
    """A run of the main job, whose prefills take 5 ms and, in 8 segments, 6 ms."""
    made = Builder(1, noise=0.001, rounds=9)
    for k, level_us in ((1, 5000.0), (8, 6000.0)):
        made.add("end_to_end", "prefill", "vLLM", "paged", level_us, spread_k=k)
    made.add("end_to_end", "prefill", "vLLM", "paged", 9000.0, control=True)
    made.add("end_to_end", "prefill", "vLLM", "dense", 9000.0)
    write_run(folder, PREFILL | {"config": {"length": length}}, made.results)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """All layouts of a small request, and a prefill before it."""
    folder = tmp_path_factory.mktemp("runs")
    options = "--spread-k 1,4 --segments-per-block 1 --kv-layouts interleaved,stacked"
    before = "--prefill-run", prefill_run(folder / "prefill")
    done = command(
        *options.split(), "--layer-tensors", "apart,together", *before, "--output-dir", folder / "run"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Gather first, then copy once (of host copies): ")
    return RunDirectory.open(folder / "run")


def cells_of(run: RunDirectory, **keys: object) -> list[dict[str, Any]]:
    cells = json.loads(run.summary_path.read_text())["cells"]
    return [cell for cell in cells if all(cell[key] == value for key, value in keys.items())]


def test_every_point_is_measured_or_says_why_not(run: RunDirectory) -> None:
    cells = cells_of(run)
    assert {cell["spread_k"] for cell in cells} == {1, 4, 8}
    assert len(cells) == 3 * 2 * 2 * 3 * 10  # directions, layouts, values of spread_k, ways
    for cell in cells:
        here = not cell["kernel"].startswith("swap") and cell["kernel"] != "gather_nccl"
        assert cell["status"] == ("ok" if here and cell["direction"] != "to_peer" else "unsupported"), cell
        assert (cell["median_us"] is None) == (cell["status"] != "ok")
        assert cell["reason"] or cell["status"] == "ok"
    assert {cell["reason"] for cell in cells_of(run, direction="to_peer")} == {
        "a transfer between GPUs needs two, there is none here"
    }
    assert {cell["provider"] for cell in cells if cell["status"] == "ok"} == {"host copy"}


@pytest.mark.parametrize(
    ("layout", "pieces"),
    [
        (("interleaved", "apart"), 2),
        (("stacked", "apart"), 4),
        (("interleaved", "together"), 1),
        (("stacked", "together"), 2),
    ],
)
def test_descriptors_are_the_pieces_of_a_block_times_blocks_or_segments(
    run: RunDirectory, layout: tuple[str, str], pieces: int
) -> None:
    of_layout = {"direction": "to_host", "kv_layout": layout[0], "layer_tensors": layout[1]}
    for spread_k in (1, 4, 8):
        cells = cells_of(run, **of_layout, spread_k=spread_k, status="ok")
        counts = {cell["kernel"]: cell["descriptors"] for cell in cells}
        assert (counts["copy_blocks"], counts["copy_rising"]) == (8 * pieces, spread_k * pieces)
        assert counts["copy_merged"] <= counts["copy_rising"]
        assert counts["contiguous"] == counts["gather_copy"] == 1


def test_bandwidths_are_the_request_s_bytes_over_the_medians(run: RunDirectory) -> None:
    request_bytes = 128 * 2 * 2 * 2 * 16 * 2  # tokens, K and V, layers, heads, values, bytes of each
    assert run.record().kv_bytes_per_token == request_bytes / 128
    for cell in cells_of(run, status="ok"):
        assert cell["gbps"] == pytest.approx(request_bytes / cell["median_us"] / 1e3)
        assert cell["host_us"] > 0


def test_a_connector_s_table_is_beside_the_run(run: RunDirectory) -> None:
    stored = json.loads((run.path / "transfer_policy.json").read_text())
    table = TransferPolicy.check(stored)
    assert table.request_bytes == 32768
    assert len(table.entries) == 12
    assert {each.block_bytes * each.descriptors_per_block for each in table.entries} == {32768 // 8}


def test_the_prefill_with_as_many_segments_or_the_next_fewer_is_added(run: RunDirectory) -> None:
    rows = json.loads(run.summary_path.read_text())["hand_over"]
    found = {(row["spread_k"], row["prefill_spread_k"], round(row["prefill_us"], -2)) for row in rows}
    assert found == {(1, 1, 5000.0), (4, 1, 5000.0), (8, 8, 6000.0)}
    assert {row["direction"] for row in rows} == {"to_host"}


def test_falling_ids_merge_only_where_that_is_asked(tmp_path: Path) -> None:
    options = "--spread-k 2 --falling --directions to_gpu --ways copy_rising,copy_merged"
    done = command(*options.split(), "--output-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    cells = cells_of(RunDirectory.open(tmp_path / "run"))
    assert {cell["status"] for cell in cells} == {"ok"}
    counts = {cell["kernel"]: cell["descriptors"] for cell in cells}
    assert counts["copy_merged"] == 2 * 2
    assert counts["copy_rising"] > counts["copy_merged"]
    assert set(counts) == {"contiguous", "gather_copy", "copy_rising", "copy_merged"}


def test_a_killed_run_goes_on_and_measures_nothing_twice(run: RunDirectory) -> None:
    samples = run.samples_path.read_bytes()
    builder.change(run, status="running")
    words = run.record().command
    assert words is not None
    done = subprocess.run(
        [sys.executable, "-m", "harness", *words[3:], "--resume"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert run.samples_path.read_bytes() == samples
    assert run.record().status == "finished"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "holds no run.json; name a run's directory"),
        (lambda path: prefill_run(path, 64), "of 64 tokens, --length is 128; name a run of that length"),
        (
            lambda path: write_run(path, PREFILL | {"experiment": "cache"}),
            "a run of cache; name one of the main",
        ),
        (
            lambda path: write_run(path, PREFILL | {"model": MODEL}),
            "its model's is 3, not --num-layers 2; set --num-layers 3",
        ),
    ],
)
def test_a_prefill_of_something_else_is_refused_in_one_line(make: Any, why: str, tmp_path: Path) -> None:
    make(tmp_path / "prefill")
    done = command("--prefill-run", tmp_path / "prefill", "--output-dir", tmp_path / "run")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert why in done.stderr
    assert not (tmp_path / "run").exists()


LEFT = [(1, 2, 3, 4, 9, 8, 7, 6, 20, 30), (5, 15, 25, 35, 36, 37, 2, 1, 11, 12), (3, 1, 5, 7, 9, 11, 13, 15)]


def layouts_file(path: Path, block_size: int = 16) -> Path:
    """Three requests of 8 blocks or more."""
    requests = (RequestLayout(None, len(ids) * block_size, ids) for ids in LEFT)
    write_layouts(path, Layouts(block_size, 64, "made up", tuple(requests)))
    return path


def test_layouts_that_traffic_left_are_moved_as_they_lay(tmp_path: Path) -> None:
    file = layouts_file(tmp_path / "layouts-stock-16-64.jsonl.gz")
    options = "--spread-k 1 --directions to_host --ways copy_merged"
    done = command(*options.split(), "--layouts", file, "--output-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    run = RunDirectory.open(tmp_path / "run")
    by_segments = sorted((ids[:8] for ids in LEFT), key=layout.spread_k)
    for percentile, ids in zip((10, 50, 90), by_segments, strict=True):
        cells = cells_of(run, layout=f"layouts-stock-16-64 p{percentile}")
        assert {cell["status"] for cell in cells} == {"ok"}
        assert {cell["spread_k"] for cell in cells} == {layout.spread_k(ids)}
        (merged,) = (cell for cell in cells if cell["kernel"] == "copy_merged")
        assert merged["descriptors"] == 2 * len(merge(ids, RISING_OR_FALLING))
    assert "Layouts that traffic left: to the host" in run.tables_path.read_text()
    stored = json.loads(run.summary_path.read_text())
    assert {row["first_faster"] for row in stored["break_even"]} <= {1, None}, "of the planned layout alone"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("--layouts {no}", "cannot be read: No such file or directory"),
        ("--layouts {other}", "of blocks of 32 tokens; set --block-size to that"),
        ("--layouts {file} --length 256", "no request has 16 blocks of 16 tokens, the largest has 10"),
        ("--layouts {file},{again}", "two files are called left; rename one"),
    ],
)
def test_layouts_of_something_else_are_refused_in_one_line(options: str, why: str, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    paths = {
        "no": tmp_path / "no.jsonl.gz",
        "file": layouts_file(tmp_path / "left.jsonl.gz"),
        "again": layouts_file(tmp_path / "again" / "left.jsonl.gz"),
        "other": layouts_file(tmp_path / "other.jsonl.gz", 32),
    }
    done = command(*options.format(**paths).split(), "--output-dir", tmp_path / "run")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert why in done.stderr
