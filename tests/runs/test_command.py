"""The command that started a run, and the one that would start it again."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from harness.experiments.prefill.options import RunConfig
from harness.runs.command import MODULE, SCRIPT, format_command, from_argv


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        ([str(SCRIPT), "--length", "64"], ["python", "run_vllm_prefill.py", "--length", "64"]),
        ([str(MODULE), "cache"], ["python", "-m", "harness", "cache"]),
        (["/usr/bin/prefill-layout-harness", "doctor"], ["prefill-layout-harness", "doctor"]),
        (["-c"], None),
        (["notebook.py"], None),
    ],
)
def test_the_words_are_those_typed(argv: list[str], command: list[str] | None) -> None:
    assert from_argv(argv) == command


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"length": 4096}, "--length 4096"),  # also where it is the default, which depends on the device
        ({"length": 4096, "batch": "2x2048"}, "--batch 2x2048"),
        ({"model": "gpt2", "repeats": None}, ""),
        ({"synthetic": False, "enforce_eager": True}, "--no-synthetic --enforce-eager"),
        ({"spread_k": [1, 8], "precision": 0.25}, "--spread-k 1,8 --precision 0.25"),
        ({"engine_options": {"kv_cache_dtype": "fp8"}}, "--kv-cache-dtype fp8"),
    ],
)
def test_a_command_has_every_option_that_is_not_the_default(options: dict[str, Any], words: str) -> None:
    assert shlex.split(format_command(["go"], options, RunConfig)) == ["go", *words.split()]
