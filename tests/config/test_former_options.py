"""Names that options and stored keys had: commands, YAML files and stored runs may still use them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from harness import cli, config
from harness.experiments.prefill.options import GROUPS, RunConfig
from harness.runs.record import Cell, Result, Status
from harness.runs.schema import RunRecord
from harness.sweep import plan


def test_the_command_line_takes_the_former_name_and_help_does_not_show_it() -> None:
    parser = cli.Parser(argument_default=argparse.SUPPRESS)
    cli.add_options(parser, RunConfig, GROUPS)
    options = vars(parser.parse_args(["--run-sizes", "random"]))
    assert config.load(RunConfig, cli.parse_options(RunConfig, options)).segment_sizes == "random"
    assert "--segment-sizes" in parser.format_help()
    assert "--run-sizes" not in parser.format_help()


def test_yaml_files_and_python_take_the_former_name(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("run_sizes: random\n")
    assert config.load(RunConfig, {}, file).segment_sizes == "random"
    assert config.load(RunConfig, {"run_sizes": "random"}).segment_sizes == "random"
    file.write_text("base: {run_sizes: random}\ngrid: {length: [1, 2]}\n")
    assert plan.read(file).points[0].options == {"run_sizes": "random", "length": 1}


def test_a_former_name_does_not_excuse_a_wrong_value() -> None:
    with pytest.raises(config.ConfigError, match="--segment-sizes odd: must be even or random"):
        config.load(RunConfig, {"run_sizes": "odd"})


def test_a_run_that_was_stored_under_former_names_has_those_of_now() -> None:
    stored: dict[str, Any] = {
        "schema_version": 1,
        "status": "finished",
        "config": {"run_sizes": "random"},
        "device": {"name": "abacus", "kind": "cpu"},
        "versions": {},
        "model": {"name": "gpt2"},
        "planted_ms": {"ms": 2.0, "ci95_ms": None},
    }
    record = RunRecord.parse(stored).to_json()
    assert record["config"] == {"segment_sizes": "random"}
    assert record["injected_ms"] == {"ms": 2.0, "ci95_ms": None}
    assert "planted_ms" not in record


def test_a_sample_s_baseline_of_a_larger_spread_k_is_read_under_both_names() -> None:
    cell = Cell("kernel", "a_kernel", "a test", "paged", 1, 16, 0, "captured")
    result = Result(cell, "spread=4 layer=0", Status.OK, one_segment_for=4)
    line = json.dumps(result.to_json())
    assert "one_segment_for" in line
    assert Result.parse(line) == Result.parse(line.replace("one_segment_for", "one_run_for")) == result
