"""Counted work against brute force, and the rates that summary.json derives from it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis import roofline as work
from harness.runs.record import Status
from tests.made_up import builder
from tests.made_up.builder import result
from tests.made_up.views import document_of, summary_of

lengths = st.integers(0, 24)
windows = st.sampled_from([-1, 0, 1, 5, 40])


def brute_force_pairs(queries: int, keys: int, causal: bool, window: tuple[int, int]) -> int:
    """Visible pairs, one by one, by flash-attn's definition of a window."""
    left, right = window
    if causal:
        right = 0
    pairs = 0
    for i in range(queries):
        position = keys - queries + i
        for j in range(keys):
            pairs += (left < 0 or j >= position - left) and (right < 0 or j <= position + right)
    return pairs


@given(
    requests=st.lists(st.tuples(lengths, lengths), max_size=3),
    causal=st.booleans(),
    left=windows,
    right=windows,
)
def test_only_visible_pairs_count(requests, causal, left, right):
    expected = sum(brute_force_pairs(q, kv, causal, (left, right)) for q, kv in requests)
    query_lens, kv_lens = [q for q, _ in requests], [kv for _, kv in requests]
    assert work.attention_flops(query_lens, kv_lens, 3, 64, causal, (left, right)) == 4 * 3 * 64 * expected


def test_a_prefill_has_half_the_pairs_and_a_window_bounds_them():
    assert work.attention_flops([4096], [4096], 1, 1) == 4 * 4096 * 4097 / 2
    assert work.attention_flops([4096], [4096], 1, 1, causal=False) == 4 * 4096**2
    assert work.attention_flops([4096], [4096], 1, 1, sliding_window=(0, 0)) == 4 * 4096


@given(requests=st.lists(st.tuples(lengths, lengths), max_size=3), group=st.integers(1, 4))
def test_bytes_are_those_of_the_tensors(requests, group):
    heads, dim, size = 2 * group, 64, 2
    tensors = [(q, heads) for q, _ in requests] * 2 + [(kv, 2) for _, kv in requests] * 2
    expected = sum(tokens * count * dim * size for tokens, count in tensors)
    query_lens, kv_lens = [q for q, _ in requests], [kv for _, kv in requests]
    assert work.attention_bytes(query_lens, kv_lens, heads, 2, dim, size) == expected


def test_a_gather_reads_and_writes():
    assert work.gather_bytes([100, 28], 2, 64, 2) == 2 * (2 * 128 * 2 * 64 * 2)
    assert work.gather_bytes([128], 2, 64, 2, tensors=3) == 2 * (3 * 128 * 2 * 64 * 2)


RECORD: dict[str, Any] = {
    "status": "finished",
    "model": {"name": "gpt2", "num_heads": 12, "num_kv_heads": 12, "head_dim": 64, "dtype": "bfloat16"},
    "config": {"length": 4096},
    "ceilings": {"tflops": 800.0, "gbps": 2500.0},
    "layer_windows": {"1": [1023, 0]},
}
FULL = 4 * 12 * 64 * 4096 * 4097 / 2
WINDOWED = 4 * 12 * 64 * (1024 * 1025 / 2 + 1024 * 3072)


def rows(record, *samples_us, clock_mhz=()):
    results = []
    for layer, us in enumerate(samples_us):
        of = {"samples_us": [us] * 10, "clock_mhz": [*clock_mhz]} if us else {"status": Status.ERROR}
        results.append(result("kernel", "k", "test", "dense", layer=layer, series=f"s{layer}", **of))
    return {row["layer"]: row for row in summary_of(builder.record(record), results)["kernels"]}


def test_rates_of_each_layer_and_of_their_mean():
    found = rows(RECORD, 80.0, 40.0)
    assert found[0]["tflops"] == pytest.approx(FULL / 80e-6 / 1e12)
    assert found[1]["tflops"] == pytest.approx(WINDOWED / 40e-6 / 1e12)
    assert found["mean"]["tflops"] == pytest.approx((FULL + WINDOWED) / 2 / 60e-6 / 1e12)
    assert found[0]["gbps"] == pytest.approx(4 * 4096 * 12 * 64 * 2 / 80e-6 / 1e9)
    assert found[0]["share_of_ceiling_pct"] == pytest.approx(found[0]["tflops"] / 8)
    slow_memory = RECORD | {"ceilings": {"tflops": 800.0, "gbps": 500.0}}
    assert rows(slow_memory, 80.0)[0]["share_of_ceiling_pct"] == pytest.approx(found[0]["gbps"] / 5)


def test_the_compute_ceiling_is_scaled_to_the_clock_that_a_kernel_ran_at():
    """A kernel at half of the ceiling at 1980 MHz is so at 990 MHz, where it takes twice as long."""
    half_us = FULL / 400e12 * 1e6
    ceilings = {"tflops": 800.0, "gbps": 25_000.0, "clock_mhz": 1980.0}
    for factor, clock_mhz in ((1, 1980), (2, 990), (1.25, 1584)):
        row = rows(RECORD | {"ceilings": ceilings}, factor * half_us, clock_mhz=[clock_mhz] * 3)[0]
        assert row["share_of_ceiling_pct"] == pytest.approx(50)
        assert (row["ceiling_scaled"], row["clock_mhz"]) == (True, clock_mhz)
    for known, clocks in ((ceilings, []), (ceilings | {"clock_mhz": None}, [990])):
        row = rows(RECORD | {"ceilings": known}, 2 * half_us, clock_mhz=clocks)[0]
        assert (row["share_of_ceiling_pct"], row["ceiling_scaled"]) == (pytest.approx(25), False)


def test_the_memory_s_ceiling_has_a_clock_of_its_own():
    memory = {"tflops": 800.0, "gbps": 500.0, "clock_mhz": 1980.0}
    shares = [
        rows(RECORD | {"ceilings": memory}, 80.0, clock_mhz=[mhz])[0]["share_of_ceiling_pct"]
        for mhz in (1980, 1700)
    ]
    assert shares[0] == shares[1]


def test_a_table_says_how_much_of_the_ceiling_is_reached_and_at_which_clock():
    kernel = ("kernel", "vllm_flash_attn", "vLLM FA3", "paged")
    record = RECORD | {"layers": [0], "ceilings": {"tflops": 800.0, "gbps": 2500.0, "clock_mhz": 1980.0}}
    for clocks, said in (([1584], "scaled to the clock that each ran at"), ([], "as measured, at whatever")):
        made = [result(*kernel, layer=0, series="spread=1 layer=0", samples_us=[80.0] * 10, clock_mhz=clocks)]
        text = document_of(builder.record(record), made).markdown()
        assert f"At spread_k = 1, of the device's measured ceiling, {said}" in text
        assert ("at 1584 MHz." in text) == bool(clocks)


def test_a_layer_without_samples_has_no_rates_and_no_part_in_the_mean():
    found = rows(RECORD, 80.0, None)
    assert (found[1]["tflops"], found[1]["gbps"], found[1]["share_of_ceiling_pct"]) == (None, None, None)
    assert found["mean"]["tflops"] == found[0]["tflops"]


@pytest.mark.parametrize("missing", ["model", "config", "ceilings", "layer_windows"])
def test_what_is_not_known_is_null(missing):
    row = rows({key: value for key, value in RECORD.items() if key != missing}, 80.0)[0]
    if missing in ("model", "config"):
        assert row["tflops"] is row["gbps"] is None
    assert (row["share_of_ceiling_pct"] is None) == (missing != "layer_windows")


def test_32_bit_operations_are_not_set_against_a_16_bit_ceiling():
    single = RECORD | {"model": RECORD["model"] | {"dtype": "float32"}}
    row = rows(single, 80.0)[0]
    assert row["share_of_ceiling_pct"] == pytest.approx(row["gbps"] / 25)


def test_the_work_of_a_batch_is_that_of_all_its_prompts():
    record = RECORD | {"config": {"batch": "1x4096,2x512@4", "length": 4096}}
    pairs = 4096 * 4097 / 2 + 2 * 512 * 513 / 2
    row = rows(record, 80.0)[0]
    assert row["tflops"] == pytest.approx(4 * 12 * 64 * pairs / 80e-6 / 1e12)
    assert row["gbps"] == pytest.approx(4 * (4096 + 1024) * 12 * 64 * 2 / 80e-6 / 1e9)
    assert work.gather_gbps(builder.run_record(record), "flash_attn_func", 10.0) == pytest.approx(
        2 * 2 * 5120 * 12 * 64 * 2 / 10e-6 / 1e9
    )
