"""Engines of other block sizes and FlashAttention versions side by side on one GPU, by the main job."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


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


def test_block_sizes_and_flash_attention_versions(small_llama, tmp_path):
    import torch

    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("FlashAttention 3 needs compute capability 9.0")
    command = [
        sys.executable, "run_vllm_prefill.py", "--model", str(small_llama), "--length", "2048",
        "--layers", "0", "--spread-k", "1", "--no-attribution", "--repeats", "30", "--enforce-eager",
        "--block-sizes", "16,64", "--flash-attn-versions", "2,3", "--output-dir", str(tmp_path / "run"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads((tmp_path / "run" / "summary.json").read_text())["variants"]
    assert [row["variant"] for row in rows] == [
        "baseline", "baseline again", "block_size=64", "flash_attn_version=2",
    ]  # fmt: skip
    assert {row["status"] for row in rows} == {"ok"}, [row["reason"] for row in rows]
    for row in rows:
        assert row["n"] == row["paging"]["n"] == row["cache_write"]["n"] == 30
        assert row["noise_floor_pct"] < 10
        assert row["paging"]["reason"] is None
    noted = json.loads((tmp_path / "run" / "run.json").read_text())["variants"]
    settings = {name: noted[name]["settings"] for name in noted}
    assert settings["block_size=64"]["block_size"] == 64
    assert {name: each["flash_attn_version"] for name, each in settings.items()} == {
        "baseline": 3, "baseline again": 3, "block_size=64": 3, "flash_attn_version=2": 2,
    }  # fmt: skip
    assert all(each["logits_error"] < 0.05 for each in noted.values())
