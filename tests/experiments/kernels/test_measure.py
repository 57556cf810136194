"""The experiment `kernels` on a CPU: what its arms compute, where K and V lie, and a whole run."""

from __future__ import annotations

import gc
import html
import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import layout
from harness.calls.capture import AttentionCall
from harness.config import kernel_names, load
from harness.experiments.kernels.measure import series
from harness.experiments.kernels.options import KernelsConfig, resolve
from harness.kernels import DenseKV, reference
from harness.kernels.listed import by_option
from harness.kernels.support import Feature
from harness.replay import random_call
from harness.replay.placement import gather
from harness.runs.record import Result, Status

ROOT = Path(__file__).resolve().parents[3]
SMALL = {"length": 150, "num_heads": 4, "head_dim": 16, "block_size": 16, "dtype": "float32"}
FUNCTIONS = kernel_names.FUNCTIONS


def configured(**options: object) -> KernelsConfig:
    return resolve(load(KernelsConfig, SMALL | options), "cpu")


def call_of(**options: object) -> AttentionCall:
    config = configured(**options)
    return random_call.make(config.shape(), "cpu", config.seed)


def by_point(results: list[Result]) -> dict[tuple[str, str], Result]:
    """The points of the functions; the one segment baselines left out."""
    points = [r for r in results if r.cell.stage == "kernel" and not r.one_segment_for]
    return {(r.cell.kernel, r.cell.arm): r for r in points}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_size": 3},
        {"causal": False, "batch_size": 2},
        {"gap": "scattered", "segment_sizes": "random"},
        {"dtype": "bfloat16", "length": 160},
        {"dtype": "float16", "head_dim": 8},
    ],
    ids=str,
)
@pytest.mark.parametrize("spread_k", [1, 4])
def test_six_points_are_right_and_ready(options, spread_k):
    made = series(configured(**options), spread_k, "cpu")
    assert {(r.status, r.reason) for r in made.results} == {(Status.OK, None)}
    assert by_point(made.results).keys() == {
        (f, arm) for f in FUNCTIONS for arm in ("contiguous", "fragmented")
    }
    assert len(made.ready()) == len(made.results) == (10 if spread_k == 1 else 11)


@pytest.mark.parametrize("queries", [1, 7, 149])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_fewer_queries_than_keys_are_the_last_ones_and_cannot_be_packed(queries, causal, batch_size):
    config = configured(seq_len_q=queries, causal=causal, batch_size=batch_size, num_kv_heads=2)
    points = by_point(series(config, 3, "cpu").results)
    packed = [points.pop(("flash_attn_qkvpacked_func", arm)) for arm in ("contiguous", "fragmented")]
    assert {result.status for result in points.values()} == {Status.OK}
    assert {result.status for result in packed} == {Status.UNSUPPORTED}


def test_why_packing_is_refused_is_said():
    few = by_point(series(configured(seq_len_q=7), 3, "cpu").results)
    assert few["flash_attn_qkvpacked_func", "fragmented"].reason == (
        "packing needs as many queries as keys, but there are 7 and 150"
    )
    grouped = by_point(series(configured(num_kv_heads=2), 3, "cpu").results)
    assert "as many KV heads as query heads" in grouped["flash_attn_qkvpacked_func", "contiguous"].reason


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_kernel_there_is_can_be_asked_for(device):
    listed = by_option(device)
    assert listed.keys() == set(kernel_names.KNOWN)
    with_table = {name for name, kernel in listed.items() if Feature.PAGED in kernel.support.features}
    assert with_table == set(kernel_names.WITH_TABLE)


@pytest.mark.engine
@pytest.mark.parametrize("options", [{}, {"seq_len_q": 1}, {"seq_len_q": 40, "causal": False}], ids=str)
@pytest.mark.parametrize("spread_k", [1, 4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_kernels_are_right_too(options, spread_k, dtype):
    asked = ["sdpa-math", "sdpa-flash", "vllm-cpu"]
    config = configured(
        kernels=asked, batch_size=2, num_kv_heads=2, head_dim=64, block_size=32, dtype=dtype, **options
    )
    results = series(config, spread_k, "cpu").results
    assert {(r.status, r.reason) for r in results} == {(Status.OK, None)}
    assert by_point(results).keys() == {(name, arm) for name in asked for arm in ("contiguous", "fragmented")}
    gathers = [r.cell.kernel for r in results if r.cell.stage == "gather"]
    assert gathers == ["gather_kv for sdpa-math", "gather_kv for sdpa-flash"]
    one_segment = [(r.cell.arm, r.control) for r in results if r.one_segment_for]
    assert (
        one_segment == [("fragmented", True), ("placebo", False), ("fragmented", False)][: 2 + (spread_k > 1)]
    )


@pytest.mark.engine
def test_a_kernel_that_does_not_take_the_blocks_gets_larger_ones():
    config = configured(kernels=["vllm-cpu"], head_dim=64, length=150, block_size=16)
    paged = by_point(series(config, 7, "cpu").results)["vllm-cpu", "fragmented"]
    assert (paged.status, paged.cell.block_size) == (Status.OK, 32)
    assert paged.reason == "re-paged from 16 to 32 tokens per block, 5 of 5 segments"


@pytest.mark.parametrize(
    ("name", "arms"),
    [
        ("vllm-fa4", ["contiguous", "fragmented"]),
        ("fa4", ["contiguous", "fragmented"]),
        ("flashinfer-ragged", ["contiguous", "fragmented"]),
        ("flashinfer-paged", ["fragmented"]),
        ("sdpa-cudnn", ["contiguous", "fragmented"]),
    ],
)
def test_a_kernel_that_cannot_run_here_says_why(name, arms):
    made = series(configured(kernels=[name], head_dim=64, dtype="bfloat16"), 2, "cpu")
    assert [arm for _, arm in by_point(made.results)] == arms
    assert {(r.status, r.reason) for r in made.results} == {
        (Status.UNSUPPORTED, "runs on an NVIDIA GPU only")
    }
    assert made.ready() == []


@pytest.mark.parametrize("queries", [1, 40, 150])
def test_the_reference_of_the_last_queries_is_the_end_of_the_whole_prefill_s(queries):
    whole, last = (call_of(seq_len_q=n, batch_size=2) for n in (150, queries))
    query = torch.cat([each[-queries:] for each in whole.query.split(150)])
    last = replace(last, query=query, key=whole.key, value=whole.value)
    expected = reference.attention_rows(whole, torch.arange(300))
    expected = torch.cat([each[-queries:] for each in expected.split(150)])
    torch.testing.assert_close(reference.attention_rows(last, torch.arange(2 * queries)), expected)


def test_keys_begin_where_the_sequences_do():
    whole, chunk = (call_of(seq_len_q=n, batch_size=3) for n in (150, 40))
    assert whole.key_start_loc.tolist() == whole.query_start_loc.tolist() == [0, 150, 300, 450]
    assert chunk.key_start_loc.tolist() == [0, 150, 300, 450]
    assert chunk.query_start_loc.tolist() == [0, 40, 80, 120]
    assert chunk.key_start_loc.dtype == chunk.query_start_loc.dtype


def test_one_token():
    made = series(configured(length=1), 1, "cpu")
    assert {r.status for r in made.results} == {Status.OK}


@settings(max_examples=25)
@given(
    length=st.integers(1, 200),
    batch_size=st.integers(1, 3),
    block_size=st.sampled_from([1, 16, 64]),
    gap=st.sampled_from(["shuffled", "scattered"]),
    data=st.data(),
)
def test_each_sequence_lies_in_so_many_segments_and_comes_back_from_them(
    length, batch_size, block_size, gap, data
):
    config = configured(length=length, batch_size=batch_size, block_size=block_size, gap=gap)
    segments = data.draw(st.integers(1, config.num_blocks()))
    call = random_call.make(config.shape(), "cpu", config.seed)
    blocks = random_call.in_blocks(call, block_size, segments, gap=gap)
    for kv, count in ((blocks.one_segment, 1), (blocks.split, segments)):
        table = kv.block_table.tolist()
        assert [layout.spread_k(ids) for ids in table] == [count] * batch_size
        ids = [block for of_sequence in table for block in of_sequence]
        assert len(set(ids)) == len(ids) == batch_size * config.num_blocks()
        into = DenseKV(torch.empty_like(call.key), torch.empty_like(call.value))
        gather(kv, [length] * batch_size, into)
        assert torch.equal(into.key, call.key)
        assert torch.equal(into.value, call.value)


def test_the_same_seed_gives_the_same_numbers():
    one, same, other = (call_of(seed=seed).query for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run from the command line: what it printed, and its directory."""
    folder = tmp_path_factory.mktemp("kernels") / "a run"
    small = "--length 150 --num-heads 2 --head-dim 8 --block-size 16 --batch-size 2 --repeats 7 --tables all"
    sweep = "--spread-min 1 --spread-max 5 --spread-step 2"
    command = [sys.executable, "-m", "harness", "kernels", *small.split(), *sweep.split()]
    ran = subprocess.run([*command, "--output-dir", folder], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout, folder


def test_a_run_from_the_command_line(done):
    printed, folder = done
    record = json.loads((folder / "run.json").read_text())
    assert (record["experiment"], record["status"], record["spread_k"]) == ("kernels", "finished", [1, 3, 5])
    assert set(record["peak_memory_bytes"]) == {"spread=1", "spread=3", "spread=5"}
    summary = json.loads((folder / "summary.json").read_text())
    assert [row["n"] for row in summary["cells"]] == [7] * 18
    assert {row["status"] for row in summary["cells"]} == {"ok"}
    for k in (1, 3, 5):
        assert f"Comparison Results (spread={k})" in printed
    assert len(re.findall(r"^Core Diff .*95%", printed, re.M)) == 9
    assert "Summary over all spread_k" in printed
    assert {path.stem for path in (folder / "plots").iterdir()} == {"kernels"}


def test_its_command_is_what_one_types_again(done):
    _, folder = done
    words = json.loads((folder / "run.json").read_text())["command"]
    assert words[:4] == ["python", "-m", "harness", "kernels"]
    assert words[-2:] == ["--output-dir", str(folder)]
    for name in ("tables.md", "report.html"):
        text = html.unescape((folder / name).read_text())
        assert shlex.join(words) in text
        assert "__main__" not in text


def test_nothing_of_a_spread_k_is_left_once_its_series_is():
    def queries() -> int:
        return sum(type(each) is torch.Tensor and each.shape == (150, 4, 16) for each in gc.get_objects())

    gc.collect()
    before = queries()
    made = series(configured(), 3, "cpu")
    assert queries() > before
    del made
    gc.collect()
    assert queries() == before
