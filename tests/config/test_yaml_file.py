"""YAML files from other people: a mapping or one line, in a moment."""

from __future__ import annotations

import os
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness.config import ConfigError, load
from harness.config.yaml_file import read_mapping
from harness.experiments.prefill.options import RunConfig
from tests.test_files import PLAIN

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def told(text: str | bytes, path: Path) -> str:
    """The error about a file with this text."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as error:
        read_mapping(path, "job.yaml")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("length: 1\nseed: 2\nlength: 3", "job.yaml: line 3: length: is there twice"),
        ("base:\n  seed: 1\n  seed: 1", "line 3: seed: is there twice"),
        (LAUGHS, "more than 20000 values"),
        (f"length:\n{LAUGHS}".replace("\n", "\n  "), "more than 20000 values"),
        ("a: &a [*a]", "line 1: an alias inside the value that it stands for"),
        ("a: " + "[" * 200 + "]" * 200, "line 1: nested too deeply"),
        ("a: " + "[" * 100_000, "nested too deeply"),
        ("a: [" + "1, " * 30_000 + "]", "more than 20000 values"),
        ("a: " + "x" * 300_000, r"larger than 0.25 MiB"),
        ("length: 4096\nmodel: [", "not YAML: line 2: "),
        ("a: \x1b[31m", "not YAML: "),
        ('a: "\\ud800"', "line 1: half a character"),
        (b"a: 1\nb: \xff", "line 2: not UTF-8 text"),
        ("a: " + "9" * 5000, "job.yaml: "),
        ("a: 2026-99-99", "job.yaml: "),
        ("a: !!bool maybe", "not YAML: KeyError"),
        ("a: !!bool x", "not YAML: KeyError"),
        *(
            (f"seed: 1\nlength: [{value}]", f"line 2: not YAML that is read here: a {tag}; put")
            for value, tag in {
                "2024-01-01": "timestamp",
                "!!timestamp x": "timestamp",
                "!!binary /w==": "binary",
                "!!set {a, b}": "set",
                "!!omap [a: 1]": "omap",
                "=": "value",
                "!mine x": "!mine",
                "!!python/object/apply:os.system [true]": "python/object/apply:os.system",
            }.items()
        ),
        ("a: 1\n---\nb: 2", "not YAML: "),
        ("[1]", "must hold lines like"),
    ],
)  # fmt: skip
def test_what_a_file_gets_wrong_is_one_short_line(text: str | bytes, message: str, tmp_path: Path) -> None:
    assert message in told(text, tmp_path / "job.yaml")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_not_waited_for(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "job.yaml")
    with pytest.raises(ConfigError, match=r"^job\.yaml: not a regular file"):
        read_mapping(tmp_path / "job.yaml", "job.yaml")


def test_aliases_and_merged_keys_are_read(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("a: &a {x: 1}\nb: *a\nc:\n  <<: *a\n  y: 2\n")
    values = read_mapping(tmp_path / "job.yaml", "job.yaml")
    assert values == {"a": {"x": 1}, "b": {"x": 1}, "c": {"x": 1, "y": 2}}


@pytest.mark.fuzz
@given(st.dictionaries(st.text(), PLAIN, min_size=1))
def test_what_yaml_holds_comes_back(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("yaml") / "job.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    assert read_mapping(path, "job.yaml") == values


@pytest.mark.fuzz
@given(st.sampled_from(sorted(RunConfig.model_fields)), PLAIN)
def test_any_value_of_any_option_is_taken_or_is_one_line(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: Any
) -> None:
    path = tmp_path_factory.mktemp("yaml") / "job.yaml"
    path.write_text(yaml.safe_dump({name: value}), encoding="utf-8")
    problem = ""
    try:
        load(RunConfig, {}, path)
    except ConfigError as error:
        problem = str(error)
    assert "\n" not in problem
    assert len(problem) < 1000


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("output_dir: ~nosuchuser/x", "output_dir: ~nosuchuser/x: must be a path; there is no such user"),
        ('output_dir: "a\\0b"', "must be a path of whole characters without NUL"),
        (f"prompt_file: {'x' * 300}", "must be a path of shorter names"),
        ("engine_options: {x: .nan}", "engine_options: {'x': nan}: must be of finite numbers"),
        ("length: 1000000000000000000000000000000", "must be at most 2147483647"),
    ],
)
def test_values_that_no_system_has_are_refused(written: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(written)
    with pytest.raises(ConfigError) as error:
        load(RunConfig, {}, tmp_path / "job.yaml")
    assert message in str(error.value)


def test_an_option_of_vllm_s_that_json_cannot_hold_is_refused_in_python() -> None:
    with pytest.raises(ConfigError, match="must be of JSON's types"):
        load(RunConfig, {"engine_options": {"x": date(2026, 1, 1)}})


def test_a_tilde_is_the_user_s_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "job.yaml").write_text("output_dir: ~/x\nfrom_captures: ~/y")
    config = load(RunConfig, {}, tmp_path / "job.yaml")
    assert (config.output_dir, config.from_captures) == (tmp_path / "x", tmp_path / "y")
