"""Why vLLM does not start, in one line, with all of it in errors.txt: by the real vLLM, and by its texts."""

from __future__ import annotations

import json
import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from harness import device, models
from harness.config import EngineSpec
from harness.engine import start_errors
from harness.runs.record import Status
from tests.command_line import run_here

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1, "hidden_size": 128,
    "intermediate_size": 128, "num_attention_heads": 2, "head_dim": 64, "max_position_embeddings": 512,
    "vocab_size": 512, "torch_dtype": "bfloat16",
}  # fmt: skip
GEMMA3 = {
    "model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"],
    "text_config": LLAMA | {"model_type": "gemma3_text", "sliding_window": 64},
    "vision_config": {"model_type": "siglip_vision_model"},
}  # fmt: skip
OWN_CODE = LLAMA | {"auto_map": {"AutoConfig": "mine.Config"}, "model_type": "mine"}
UNKNOWN = LLAMA | {"architectures": ["NoSuchLM"]}
FP8 = LLAMA | {"quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic"}}
no_torchvision = pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
on_two_cpus = pytest.mark.skipif(
    device.kind() != "cpu" or (os.cpu_count() or 1) < 2, reason="needs two cores, and no GPU that has FP8"
)
REFUSED = [
    (OWN_CODE, [], "its repository runs code of its own; read that code, then add --trust-remote-code"),
    (UNKNOWN, [], r"vllm\S* \S+ has no model class \['NoSuchLM'\]; choose another model, or "),
    (LLAMA, ["--compilation-config.mode", 77], "mode: Input should be 0, 1, 2 or 3; errors.txt of the run "),
    pytest.param(
        FP8, ["--tensor-parallel-size", 2], r"its quantisation \(fp8\) does not run on a CPU \(.*\); choose ",
        marks=on_two_cpus,
    ),
    pytest.param(
        GEMMA3, [], "vLLM's class for it, Gemma3ForConditionalGeneration, imports torchvision, which is ",
        marks=no_torchvision,
    ),
]  # fmt: skip


@pytest.mark.engine
@pytest.mark.parametrize(("config", "options", "line"), REFUSED)
def test_what_vllm_refuses_is_one_line(
    tmp_path: Path, capfd: Any, config: dict[str, Any], options: list[Any], line: str
) -> None:
    model, output = tmp_path / "model", tmp_path / "run"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(config))
    fixed = ["--load-format", "dummy", "--length", 64, "--enforce-eager", "--output-dir", output, "--quiet"]
    done = run_here("prefill", "--model", model, *fixed, *options)
    assert done.returncode == 1
    passed_on = ' with --compilation-config {"mode": 77}' if "77" in map(str, options) else ""
    beginning = f"python -m harness: error: vLLM cannot start {model}{passed_on}: "
    assert re.fullmatch(rf"{re.escape(beginning)}{line}.*\n", done.stderr)
    assert json.loads((output / "run.json").read_text())["error"] in f"EngineError: {done.stderr[26:]}"
    assert "Traceback (most recent call last)" in (output / "errors.txt").read_text()
    assert "ERROR" not in "".join(capfd.readouterr())  # vLLM's log, that of its ranks and subprocesses too


OF_A_GPU = [
    (
        ValueError(
            "Free memory on device cuda:0 (3.2/79.1 GiB) on startup is less than desired GPU memory "
            "utilization (0.6, 47.5 GiB). Decrease GPU memory utilization or reduce GPU memory used by others"
        ),
        Status.OUT_OF_MEMORY,
        "Free memory on device cuda:0 (3.2/79.1 GiB) on startup is less than desired GPU memory utilization "
        "(0.6, 47.5 GiB); lower --gpu-memory-utilization, or wait until others free the GPU",
    ),
    (
        ValueError("No available memory for the cache blocks. Try increasing `gpu_memory_utilization`"),
        Status.OUT_OF_MEMORY,
        "its weights leave no room for the KV cache; raise --gpu-memory-utilization, or take a smaller model",
    ),
    (
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 79.1 GiB"),
        Status.OUT_OF_MEMORY,
        "CUDA out of memory; choose a smaller model, a --dtype of fewer bytes, or more GPUs",
    ),
    (
        RuntimeError(
            "\x1b[36mray::RayWorkerProc.initialize_worker()\x1b[39m (pid=7, ip=10.0.0.1)\n"
            "Traceback (most recent call last):\n"
            '  File "loader.py", line 1, in quantise\n'
            "ValueError: The quantization method awq is not supported for the current GPU. Minimum: 80"
        ),
        Status.UNSUPPORTED,
        "its quantisation (awq) does not run on ",
    ),
    (KeyError("vocab_size"), Status.ERROR, "KeyError: 'vocab_size'; errors.txt of the run has all of it"),
]


@pytest.mark.parametrize(("error", "status", "line"), OF_A_GPU)
def test_other_reasons_are_told_with_the_way_out(
    tmp_path: Path, error: Exception, status: Status, line: str
) -> None:
    config = LLAMA | {"quantization_config": {"quant_method": "awq"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = models.inspect(str(tmp_path), length=64, load_format="dummy")
    explained = start_errors.explain(error, "", EngineSpec(65, 1, 64, block_size=32), source)
    assert str(explained).startswith(f"vLLM cannot start {tmp_path}: {line}")
    assert explained.status is status
    assert "\n" not in str(explained)
