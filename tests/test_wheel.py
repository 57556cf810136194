"""The wheel, installed where no checkout is: all that the code needs is in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import device

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("harness", "patches", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")


@dataclass(frozen=True)
class Installed:
    """A wheel, installed in a directory of its own."""

    target: Path
    elsewhere: Path  # where commands run: no checkout

    def __call__(self, *options: object) -> subprocess.CompletedProcess[str]:
        """Run the console script."""
        script = str(self.target / "bin" / "prefill-layout-harness")
        command = [sys.executable, script, *map(str, options)]
        environment = os.environ | {"PYTHONPATH": str(self.target)}
        return subprocess.run(command, cwd=self.elsewhere, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """A wheel of this checkout."""
    source, target, elsewhere = (tmp_path_factory.mktemp(name) for name in ("source", "target", "elsewhere"))
    for name in SOURCES:  # a copy: a build leaves files behind, and takes in those of the last one
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(target)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, source], check=True, cwd=elsewhere)
    return Installed(target, elsewhere)


def test_refusals_of_the_main_job_are_cheap_and_name_the_way_out(run):
    assert run("--version").stdout == f"prefill-layout-harness {device.harness_version()}\n"
    for options, stderr in {
        ("--length", 0): "--length 0: must be at least 1",
        ("--layers", 99): "--layers 99: gpt2 has 12 layers",
        ("--model", "gpt3"): "--model gpt3: ",
        ("--config", "nosuch.yaml"): "/harness/_configs holds examples",
    }.items():
        done = run("prefill", *options)
        assert done.returncode == 2
        assert stderr in done.stderr, done.stderr
        assert done.stderr.startswith("prefill-layout-harness: error: ")


def test_shipped_configurations_are_those_of_the_checkout(run):
    shipped = run.target / "harness" / "_configs"
    files = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*") if path.is_file()}
    assert {path.relative_to(shipped) for path in shipped.rglob("*") if path.is_file()} == files


def test_kernels_run_and_are_reported_again(run):
    small = {"length": 64, "num-heads": 2, "head-dim": 16, "block-size": 16, "spread-max": 2, "repeats": 2}
    options = [word for name, value in small.items() for word in (f"--{name}", value)]
    done = run("kernels", *options, "--output-dir", "out")
    assert done.returncode == 0, done.stderr
    record = json.loads((run.elsewhere / "out" / "run.json").read_text())
    assert record["command"][:2] == ["prefill-layout-harness", "kernels"]
    assert record["versions"]["harness"] == device.harness_version()
    assert record["versions"]["commit"] is None
    page = (run.elsewhere / "out" / "report.html").read_text()
    assert run("report", "out").returncode == 0
    assert (run.elsewhere / "out" / "report.html").read_text() == page


@pytest.mark.engine
def test_doctor_finds_all_that_it_needs(run):
    done = run("doctor")
    assert "PROBLEM" not in done.stdout
    assert "The main job can run here" in done.stdout, done.stderr
