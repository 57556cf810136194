"""The device without torch: hidden devices, and a description that holds anywhere."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from harness import device


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_devices_leave_the_cpu(monkeypatch, hidden):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert device.kind() == "cpu"
    described = device.describe()
    assert described["kind"] == "cpu"
    assert described["cores"] >= 1
    assert described["memory_bytes"] > 2**20
    assert described["name"]


def test_the_description_fits_its_kind_and_into_json():
    described = json.loads(json.dumps(device.describe()))
    assert described["kind"] == device.kind()
    assert {"name", "memory_bytes"} <= described.keys()


def test_versions_name_the_engine_the_harness_and_python():
    versions = json.loads(json.dumps(device.versions()))
    assert {"python", "vllm", "torch", "flash-attn", "transformers", "numpy", "commit"} <= versions.keys()
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["harness"]


def test_a_commit_with_changes_names_the_code_that_ran(monkeypatch, tmp_path):
    """So that a run is not resumed with other code: dirty then, dirty now."""
    module = tmp_path / "harness" / "module.py"
    module.parent.mkdir()
    (tmp_path / "patches").mkdir()

    def commit_of(text: str, *git: str) -> str:
        module.write_text(text)
        for words in git:
            subprocess.run(["git", "-C", str(tmp_path), *words.split()], check=True, capture_output=True)
        return device.versions()["commit"]

    monkeypatch.setattr(device, "ROOT", tmp_path)
    as_me = "-c user.name=me -c user.email=me@example.org"
    clean = commit_of("0", "init", "add .", f"{as_me} commit -m first")
    first, second = commit_of("1"), commit_of("2")
    assert len({clean, first, second}) == 3
    assert "-dirty" not in clean
    assert first.startswith(f"{clean}-dirty-")
    assert commit_of("1") == first
