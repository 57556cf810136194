"""The experiment `memory`: every counter of a GPU is there and they agree with each other."""

from __future__ import annotations

from tests.gpu.jobs import harness, summary_of


def test_every_counter_is_read_in_the_engine_s_own_process(tmp_path):
    small = "--model gpt2 --lengths 1,500,33 --repeats 1 --gpu-memory-utilization 0.1 --enforce-eager --quiet"
    harness("memory", *small.split(), "--output-dir", tmp_path)
    summary = summary_of(tmp_path)
    assert {row["status"] for row in summary["cells"]} == {"ok"}, summary["cells"]
    for row in summary["cells"]:
        if row["moment"] != "start":
            assert row["cache_held_bytes"] <= row["allocated_bytes"] <= row["reserved_bytes"]
            assert row["reserved_bytes"] <= row["nvml_bytes"]
    needed, blocks, padded = summary["waste"]
    per_token = 2 * 12 * 12 * 64 * 2
    assert needed["used_bytes"] == 534 * per_token
    assert blocks["used_bytes"] == (16 + 512 + 48) * per_token
    assert padded["used_bytes"] == 3 * 500 * per_token
