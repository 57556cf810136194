"""A sweep on real GPUs: both points finish, each on one GPU alone."""

from __future__ import annotations

from tests.gpu.jobs import harness, record_of, summary_of


def test_two_flash_attention_versions(tmp_path):
    file, directory = tmp_path / "sweep.yaml", tmp_path / "out"
    file.write_text(
        "base: {model: gpt2, length: 1024, layers: [0], spread_k: [1, 64], repeats: 8, enforce_eager: true,\n"
        "       gpu_memory_utilization: 0.1, engine_options: {kv_cache_memory_bytes: 2147483648}}\n"
        "grid: {flash_attn_version: [2, 3]}"
    )
    harness("sweep", file, "--output-dir", directory)
    points = summary_of(directory)["points"]
    assert [point["options"]["flash_attn_version"] for point in points] == [2, 3]
    for point in points:
        assert point["attribution"]["engine_ms"] > 0
        assert record_of(directory / point["name"])["device"]["count"] == 1
