"""Engines of other block sizes and FlashAttention versions side by side on one GPU, by the main job."""

from __future__ import annotations

import pytest

from tests.gpu.jobs import harness, record_of, summary_of

pytestmark = pytest.mark.alone  # engines are held against each other


@pytest.fixture(scope="module")
def small_llama(tmp_path_factory):
    """A llama of 4 layers with grouped queries, seeded weights in bfloat16."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        num_hidden_layers=4, hidden_size=1024, intermediate_size=2048, num_attention_heads=8,
        num_key_value_heads=2, vocab_size=4096, max_position_embeddings=8192,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("models") / "small-llama"
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(path)
    return path


def test_cuda_graphs_that_cover_the_step(small_llama, tmp_path):
    """Attention can be overridden beside piecewise graphs, and not in a whole one."""
    harness(
        "prefill", "--model", small_llama, "--length", 2048, "--layers", 0, "--spread-k", 1,
        "--no-attribution", "--repeats", 30, "--cudagraph-modes", "EAGER,PIECEWISE,FULL",
        "--output-dir", tmp_path,
    )  # fmt: skip
    rows = {row["variant"]: row for row in summary_of(tmp_path)["variants"]}
    assert {row["status"] for row in rows.values()} == {"ok"}, [row["reason"] for row in rows.values()]
    whole = rows.pop("cudagraph_mode=FULL")
    assert "inside the CUDA graph" in whole["paging"]["reason"]
    assert whole["engine_ms"] < rows["cudagraph_mode=EAGER"]["engine_ms"]
    assert {row["paging"]["n"] for row in rows.values()} == {30}


def test_block_sizes_and_flash_attention_versions(small_llama, tmp_path):
    import torch

    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("FlashAttention 3 needs compute capability 9.0")
    harness(
        "prefill", "--model", small_llama, "--length", 2048, "--layers", 0, "--spread-k", 1,
        "--no-attribution", "--repeats", 30, "--enforce-eager", "--block-sizes", "16,64",
        "--flash-attn-versions", "2,3", "--output-dir", tmp_path,
    )  # fmt: skip
    rows = summary_of(tmp_path)["variants"]
    assert [row["variant"] for row in rows] == [
        "baseline", "baseline again", "block_size=64", "flash_attn_version=2",
    ]  # fmt: skip
    assert {row["status"] for row in rows} == {"ok"}, [row["reason"] for row in rows]
    for row in rows:
        assert row["n"] == row["paging"]["n"] == row["cache_write"]["n"] == 30
        assert row["noise_floor_pct"] < 10
        assert row["paging"]["reason"] is None
    noted = record_of(tmp_path)["variants"]
    settings = {name: noted[name]["settings"] for name in noted}
    assert settings["block_size=64"]["block_size"] == 64
    assert {name: each["flash_attn_version"] for name, each in settings.items()} == {
        "baseline": 3, "baseline again": 3, "block_size=64": 3, "flash_attn_version=2": 2,
    }  # fmt: skip
    assert all(each["logits_error"] < 0.05 for each in noted.values())
