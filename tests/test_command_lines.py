"""Command lines that nobody types: each is taken, or refused in one line before anything heavy."""

from __future__ import annotations

import io
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import cli
from harness.__main__ import main
from harness.experiments import EXPERIMENTS, starting

VALUES = st.sampled_from(
    ["0", "1", "-1", "16", "4096", "2147483648", "9" * 30, "9" * 5000, "0.5", "nan", "inf", "1e999", "", " ",
     "x", "x" * 300, "1,2", "1,,2", ",", "1,x", "4x1024", "2x64,1x16@3", "1024x131072", "0x0", "@", "auto",
     "all", "sample", "gpt2", "gpt2-1-layer", "gpt2-", "org/name.git", "~nosuchuser/x", "/dev/zero",
     "/dev/null", "/etc",
     "..", "{}", "[]", "{", "true", "\x1b[31m", "\udcff", "FLASH_ATTN", "dummy", "fp8", "$(x)"]
) | st.text(max_size=8).filter(lambda text: not text.startswith("-"))  # fmt: skip


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    name = draw(st.sampled_from([*EXPERIMENTS]))
    own = sorted(set(EXPERIMENTS[name].config.model_fields) - {"engine_options"})
    fields = [*own, "config", "kv_cache_dtype", "nothing"]
    argv = [name]
    for option in draw(st.lists(st.sampled_from(fields), min_size=1, max_size=3)):
        argv += ["--" + option.replace("_", "-"), *draw(st.lists(VALUES, max_size=1))]
    return argv


@pytest.fixture(scope="module", autouse=True)
def _check_only() -> Any:
    """Options are checked as for a run, which is not started."""

    def check(name: str, options: Mapping[str, Any], config_file: Path | None = None) -> None:
        experiment = EXPERIMENTS[name]
        config = starting._resolve(experiment, options, config_file, "cpu")
        with starting._input_errors():
            starting._find_model(experiment, config, "cpu")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(starting, "run", check)
        patched.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.mark.fuzz
@given(argv=command_lines())
def test_any_command_line_is_taken_or_refused_in_one_line(argv: list[str]) -> None:
    told = io.StringIO()
    with redirect_stderr(told), redirect_stdout(io.StringIO()):
        status = main(argv)
    assert status in (cli.OK, cli.BAD_INPUT)
    assert len(told.getvalue().splitlines()) == (status == cli.BAD_INPUT)


@pytest.mark.parametrize(
    "argv",
    [["report"], ["compare", "."], ["sweep"], ["prefill", "--config"], ["sweep", "x.yaml", "--output-dir"]],
)
@pytest.mark.parametrize("name", ["x" * 300, "/dev/zero", "a\0b"])
def test_any_path_is_refused_in_one_line(
    argv: list[str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*argv, name]) == cli.BAD_INPUT
    assert len(capsys.readouterr().err.splitlines()) == 1
