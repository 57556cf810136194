"""vLLM's own engine options: parsed as vLLM parses them, checked without it, and typed again as they were."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from harness.config import ConfigError, engine_options, load
from harness.experiments.prefill.options import RunConfig, resolve
from harness.runs.command import format_command

OPTIONS: dict[str, Any] = {
    "--kv-cache-dtype fp8": {"kv_cache_dtype": "fp8"},
    "--quantization=fp8 --enable-lora": {"quantization": "fp8", "enable_lora": True},
    "--no-enable-chunked-prefill": {"enable_chunked_prefill": False},
    "--max-lora-rank 32 --max-loras 2": {"max_lora_rank": 32, "max_loras": 2},
    "--cpu-offload-gb 1.5": {"cpu_offload_gb": 1.5},
    """--hf-overrides '{"num_hidden_layers": 1, "a": {"b": [1]}}'""": {
        "hf_overrides": {"num_hidden_layers": 1, "a": {"b": [1]}}
    },
    "--hf-overrides.rope_parameters.factor 4 --hf-overrides.x y": {
        "hf_overrides": {"rope_parameters": {"factor": 4}, "x": "y"}
    },
    "--kv-cache-dtype-skip-layers 0 sliding_window": {"kv_cache_dtype_skip_layers": ["0", "sliding_window"]},
    "--cudagraph-capture-sizes 1 2": {"cudagraph_capture_sizes": [1, 2]},
    "--model-impl transformers": {"model_impl": "transformers"},
    "--kv-cache-memory-bytes 4G": {"kv_cache_memory_bytes": 4 * 2**30},
    "--kv-cache-memory-bytes 1.5g": {"kv_cache_memory_bytes": 1_500_000_000},
}


@pytest.mark.engine
@pytest.mark.parametrize("line", OPTIONS)
def test_options_are_parsed_as_vllm_parses_them(line: str) -> None:
    from vllm import EngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    options = engine_options.parse(shlex.split(line), [])
    assert options == OPTIONS[line]
    theirs = vars(parser.parse_args(shlex.split(line)))
    assert {name: theirs[name] for name in options} == options


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--no-kv-cache-dtype fp8", "--no-kv-cache-dtype: --kv-cache-dtype is no switch; give it a value"),
        ("--compilation-config 3 --compilation-config.mode 3", "--compilation-config 3 was given as well"),
        ("--kv-cache-memory-bytes 4X", "--kv-cache-memory-bytes 4X: must be a whole number"),
        ("--kv-cache-memory-bytes 1e400k", "--kv-cache-memory-bytes 1e400k: must be a whole number"),
        (f"--hf-overrides {'[' * 5000}", "--hf-overrides .*: must be JSON"),
    ],
)
def test_what_cannot_be_read_is_one_line(line: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engine_options.parse(shlex.split(line), [])


@pytest.mark.parametrize("options", OPTIONS.values())
def test_the_command_of_a_run_has_them_again(options: dict[str, Any]) -> None:
    words = shlex.split(format_command([], {"engine_options": options}, RunConfig))
    assert engine_options.parse(words, []) == options


def test_a_file_s_options_stay_beside_those_typed(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("engine_options: {kv_cache_dtype: fp8, enable_lora: true}\n")
    config = load(RunConfig, {"engine_options": {"kv_cache_dtype": "auto"}}, file)
    assert config.engine_options == {"kv_cache_dtype": "auto", "enable_lora": True}
    assert resolve(config, "cpu").engine().engine_options == config.engine_options


def test_a_file_that_has_them_among_the_harness_s_own_is_told_where_they_belong(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("kv_cache_dtype: fp8\n")
    with pytest.raises(ConfigError, match="kv_cache_dtype: unknown key; vLLM's own options belong in "):
        load(RunConfig, {}, file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"kv_cache_dtyp": "fp8"},
            "kv_cache_dtyp: vLLM has no such engine option; the nearest is kv_",
        ),
        ({"dtype": "half"}, "engine_options: dtype: is an option of the harness's own; give it as --dtype"),
        ("fp8", "--engine-options fp8: must be options with their values, e.g. {kv_cache_dtype: fp8}"),
    ],
)
def test_what_a_file_or_python_may_not_ask_for(options: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(load(RunConfig, {"engine_options": options}), "cpu")
