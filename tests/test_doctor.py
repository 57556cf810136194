"""The doctor, as a user meets it: what it prints, what it refuses, and that it names what is wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from harness import device

ROOT = Path(__file__).parent.parent
on_cpu = pytest.mark.skipif(
    device.kind() != "cpu", reason="what can run depends on the GPU machine's packages"
)


def doctor(first_on_path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if first_on_path is not None:
        environment["PYTHONPATH"] = f"{first_on_path}{os.pathsep}{ROOT}"
    command = [sys.executable, "-m", "harness", "doctor"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def write_vllm(folder: Path, modules: dict[str, str]) -> Path:
    """A package `vllm` of these modules' texts."""
    for name, text in {"vllm": "", **modules}.items():
        parts = name.split(".")
        for n in range(1, len(parts) + 1):
            path = folder.joinpath(*parts[:n])
            path.mkdir(parents=True, exist_ok=True)
            (path / "__init__.py").touch()
        (folder.joinpath(*parts) / "__init__.py").write_text(text)
    return folder


def as_needed() -> dict[str, str]:
    """Modules of a vLLM that has exactly what the patches need."""
    classes: dict[tuple[str, str], str] = {}
    for path in (ROOT / "patches").glob("*.py"):
        for symbol in getattr(import_module(f"patches.{path.stem}"), "NEEDS", ()):
            module, _, name = symbol.path.partition(":")
            owner, _, method = name.partition(".")
            text = classes.setdefault((module, owner), f"class {owner}:\n    pass\n")
            parameters = ", ".join(("self", *symbol.parameters))
            function = f"    def {method or '__init__'}({parameters}): ...\n"
            classes[module, owner] = text + function
    modules: dict[str, str] = {}
    for (module, _), text in classes.items():
        modules[module] = modules.get(module, "") + text
    return modules


@on_cpu
def test_a_sound_machine():
    done = doctor()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PROBLEM" not in done.stdout
    titles = re.findall(r"^\w.*$", done.stdout, re.MULTILINE)
    assert [title for title in titles if not title.startswith("note: ")] == [
        "Device",
        "Versions",
        "What the patches need of vLLM",
        "Kernels that can run here, and why others cannot",
        "What kernels take (+)",
        "Types and sizes",
        "The main job can run here, on cpu.",
    ]
    assert re.search(r"^  vLLM CPU +yes$", done.stdout, re.MULTILINE)
    assert max(map(len, done.stdout.splitlines())) <= 80


@on_cpu
def test_the_table_is_what_the_kernels_declare():
    from harness import support_table
    from harness.kernels.listed import all_kernels

    kernels = all_kernels("cpu")
    head, *rows = support_table.features(kernels)[: len(kernels) + 1]
    short = {short: feature for feature, (short, _) in support_table.COLUMNS.items()}
    columns = [short[word] for word in head.split()]
    assert len(columns) == len(set(columns))
    for kernel, row in zip(kernels, rows, strict=True):
        assert row.startswith(f"{kernel.label} ")
        marks = row.removeprefix(kernel.label).split()
        taken = {column for column, mark in zip(columns, marks, strict=True) if mark == "+"}
        assert taken == kernel.support.features


def test_a_moved_symbol_is_named(tmp_path):
    modules = as_needed()
    pool = "vllm.v1.core.block_pool"
    modules[pool] = modules[pool].replace("def get_new_blocks", "def take_blocks")
    done = doctor(write_vllm(tmp_path, modules))
    assert done.returncode == 1
    text = " ".join(done.stdout.split())
    assert text.count("PROBLEM: patches/") == 1, done.stdout
    assert f"patches/block_pool.py: vLLM has no {pool}:BlockPool.get_new_blocks" in text
    assert "The main job cannot run here." in text


def test_a_lost_parameter_is_named(tmp_path):
    modules = as_needed()
    attention = "vllm.v1.attention.backends.cpu_attn"
    modules[attention] = modules[attention].replace("attn_metadata", "metadata")
    done = doctor(write_vllm(tmp_path, modules))
    assert done.returncode == 1
    assert "CPUAttentionBackendImpl.forward has no parameter attn_metadata" in " ".join(done.stdout.split())


def test_a_vllm_that_has_all_that_is_needed_passes(tmp_path):
    done = doctor(write_vllm(tmp_path, as_needed()))
    assert "PROBLEM: patches/" not in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("raise ImportError('libcudart.so.13: cannot open')", "does not load: ImportError: libcudart.so.13"),
        (
            "import sys; sys.modules.pop('vllm'); raise OSError('undefined symbol')",
            "OSError: undefined symbol",
        ),
    ],
)
def test_a_vllm_that_does_not_load_is_one_problem(tmp_path, text, words):
    done = doctor(write_vllm(tmp_path, {"vllm": text}))
    assert done.returncode == 1
    assert words in " ".join(done.stdout.split())
    assert done.stdout.count("PROBLEM") == 1
    assert "What kernels take" in done.stdout


def test_without_vllm_it_says_so_in_a_line(monkeypatch, capsys):
    from harness import doctor as module

    absent = module.find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "vllm" else absent(name))
    module._broken.cache_clear()
    try:
        assert module.run() == 1
    finally:
        module._broken.cache_clear()
    printed = capsys.readouterr().out
    assert "PROBLEM: vllm is not installed\n" in printed
    assert printed.count("PROBLEM") == 1
    assert "make run" in printed
