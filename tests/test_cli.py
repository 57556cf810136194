"""The command line, as a user meets it: one line and status 2 for bad input, before anything heavy."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from harness import __main__
from harness.calls import capture
from harness.engine.options import EngineError
from harness.engine.ranks import RankDied
from harness.experiments import EXPERIMENTS, prefill
from harness.experiments.prefill.options import RunConfig
from harness.layout import LayoutError
from patches import PatchError
from tests.attention_calls import make_call
from tests.command_line import ROOT, run, run_all, run_here
from tests.made_up.prefill import record

SWEEP = "configs/cpu-sweep.yaml"

STUDIED = "docs/study/data/nvidia-h200/llama-3-8b-4096-block16-fa3-2k"


BAD_INPUT = [
    ("--lenght 5", "--lenght: unknown argument; the nearest is --length"),
    ("--num-prompts 5", "--num-prompts: unknown argument; --help lists the options"),
    ("--leng 5", "--leng: unknown argument; the nearest is --length"),
    ("--block_size 16", "--block_size: unknown argument; the nearest is --block-size"),
    ("gpt2", "gpt2: unknown argument; options begin with --"),
    ("--length", "argument --length/--input-len: expected one argument; --help"),
    ("--length 0", "--length 0: must be at least 1"),
    ("--length 131073", "--length 131073: a prompt must have 1..131072 tokens"),
    ("--length 4k", "--length 4k: must be a whole number"),
    ("--batch 4x64 --length 64", "--length 64 and --batch 4x64: exclude each other; leave one out"),
    ("--spread-k 0,4", "--spread-k 0,4: must be at least 1"),
    ("--spread-k 1,,4", "--spread-k 1,,4: must be a list of whole numbers"),
    ("--length 64 --block-size 32 --spread-k 3", "--spread-k 3: must be within 1..2, the number of blocks"),
    ("--spread-k 1 --spread-step 2", "--spread-k 1 and --spread-step 2: exclude each other; leave one out"),
    ("--block-size 20", "--block-size 20: must be a multiple of "),
    ("--block-sizes 64,20", "--block-sizes 20: must be a multiple of "),
    ("--block-sizes 64,big", "--block-sizes 64,big: must be a list of whole numbers"),
    ("--block-sizes 64 --tensor-parallel-size 2", "leave it out or --tensor-parallel-size 2"),
    ("--flash-attn-versions 2,5", "--flash-attn-versions 5: vLLM has versions 2, 3 and 4"),
    (
        "--attention-backend TRITON_ATTN --flash-attn-versions 2",
        "--flash-attn-versions 2: --attention-backend TRITON_ATTN has none; leave one out",
    ),
    (
        "--attention-backend flash_atn",
        "--attention-backend flash_atn: vLLM has no such backend; take one of the nearest, FLASH_ATTN",
    ),
    ("--attention-backends A,,B", "--attention-backends A,,B: must be a list of names, e.g. A,B"),
    ("--layers first", "--layers first: must be all or sample, or a list of whole numbers"),
    ("--flash-attn-version 5", "--flash-attn-version 5: must be 2, 3 or 4"),
    ("--gpu-memory-utilization 1.5", "--gpu-memory-utilization 1.5: must be at most 1"),
    ("--from-captures missing", "--from-captures missing: no *.safetensors there"),
    ("--output-dir ", "--output-dir '': must be a path; leave it out for the default"),
    ("--output-dir README.md/out", "/README.md is not a directory; choose another"),
    ("--seed 4294967296", "--seed 4294967296: must be at most 4294967295"),
    ("--kv-cache-dtyp fp8", "--kv-cache-dtyp: unknown argument; the nearest is --kv-cache-dtype"),
    ("--scheduling-policy lifo", "--scheduling-policy lifo: must be fcfs or priority"),
    ("--kv-cache-dtype --quiet", "--kv-cache-dtype: expected a value"),
    ("--enable-lora yes", "--enable-lora yes: is a switch; give it without a value"),
    ("--max-loras two", "--max-loras two: must be a whole number"),
    ("--hf-overrides {a", "--hf-overrides {a: must be JSON, e.g. '{\"key\": 1}'"),
    ("--hf-overrides 5", "--hf-overrides 5: must be a JSON object with keys of config.json"),
    (
        '--hf-overrides {"n_positions":9,"model_type":"gpt_neo"}',
        "gpt2 has 9 positions, learned ones; take at most 8",
    ),
    (
        "--runner pooling",
        "--runner pooling: python -m harness workload measures pooling, by --task; leave it out",
    ),
    ("--max-model-len 99", "--max-model-len 99: it follows from the prompts' lengths; leave it out"),
    ("--model llama-3-8b --quantization fp8", "--quantization fp8: the weights of llama-3-8b are drawn once"),
    ("--config missing.yaml", "--config missing.yaml: No such file or directory"),
    ("--config pyproject.toml", "--config pyproject.toml: not YAML"),
]


@pytest.fixture(scope="module")
def refusals():
    """What came of each line of BAD_INPUT."""
    lines = [argv for argv, _ in BAD_INPUT]
    return dict(zip(lines, run_all([("main_job", line.split(" ")) for line in lines]), strict=True))


@pytest.mark.parametrize(("argv", "message"), BAD_INPUT)
def test_bad_input_is_one_line_and_status_2_before_anything_heavy(refusals, argv, message):
    done = refusals[argv]
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("run_vllm_prefill.py: error: ")
    assert message in done.stderr
    assert (done.stderr.count("\n"), done.stdout, done.heavy) == (1, "", [])


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("run.json", "{", "run.json: damaged (Expecting property name"),
        ("run.json", "[]", "run.json: damaged (it has no status); restore it or measure again"),
        (
            "samples.jsonl",
            "{}\n",
            "samples.jsonl, line 1: not a result (cell: is missing); remove the line to do without it",
        ),
    ],
)
def test_a_damaged_run_is_one_line(tmp_path, file, text, message):
    (tmp_path / "run.json").write_text(json.dumps(record() | {"status": "running"}))
    (tmp_path / file).write_text(text)
    run = str(tmp_path)
    commands = ["report", run], ["compare", run, run], ["prefill", "--resume", "--output-dir", run]
    found = run_all([("main", command) for command in commands])
    for command, done in zip(commands, found, strict=True):
        if (file, command[0]) == ("samples.jsonl", "prefill"):
            message = "was started with"  # on another device, which is said first
        assert message in done.stderr
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "torch" not in done.heavy


def test_a_damaged_sweep_is_one_line(tmp_path):
    (tmp_path / "sweep.json").write_text("{")
    for command in (["report", tmp_path], ["sweep", SWEEP, "--resume", "--output-dir", tmp_path]):
        done = run_here(*command)
        assert "sweep.json: damaged (Expecting property name" in done.stderr
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    done = run_here("sweep", SWEEP, "--resume")
    assert "--resume: name the sweep to resume with --output-dir" in done.stderr


def test_what_the_model_does_not_have_is_refused_before_the_engine_is_imported(tmp_path):
    text = tmp_path / "prompt.txt"
    text.write_text("Paris is a city.")
    asked = "--layers 0,32", "--tensor-parallel-size 3", f"--prompt-file {text}"
    done = run_all([("main_job", ["--model", "llama-3-8b", *options.split()]) for options in asked])
    layers, heads, prompt = (each.stderr for each in done)
    assert "--layers 32: llama-3-8b has 32 layers; must be within 0..31" in layers
    assert "--tensor-parallel-size 3: llama-3-8b has 32 query heads, which must be" in heads
    assert "take one of 1, 2, 4, 8, 16, 32" in heads
    assert f"--prompt-file {text}: llama-3-8b has no tokenizer" in prompt
    for each in done:
        assert (each.returncode, each.stderr.count("\n"), each.stdout, each.heavy) == (2, 1, "", [])


@pytest.fixture
def saved(tmp_path):
    """Captures of layers 0 and 2, 40 tokens in blocks of 16."""
    call = make_call(40, heads=1, kv_heads=1, head_dim=4, block_size=16)
    for layer in (0, 2):
        capture.save(replace(call, layer=layer), tmp_path / f"layer-{layer}.safetensors")
    return tmp_path


NOT_OF_CAPTURES = [
    ("--spread-k 1,4", "--spread-k 4: must be within 1..3, the number of blocks that --length 40"),
    ("--layers 0,1", "--layers 1: not among the captures in {}; take from 0,2"),
    ("--length 64", "--length 64: the captures in {} have 40; leave it out"),
    ("--block-size 64", "--block-size 64: the captures in {} have 16; leave it out"),
    ("--save-captures", "--save-captures: --from-captures captures nothing"),
    ("--block-sizes 16", "--block-sizes 16: --from-captures starts no engine; leave one out"),
]


def test_what_captures_do_not_allow_is_refused_before_anything_heavy(saved):
    given = ["--from-captures", str(saved), "--output-dir", str(saved / "run")]
    found = run_all([("main_job", [*given, *argv.split()]) for argv, _ in NOT_OF_CAPTURES])
    for (_, message), done in zip(NOT_OF_CAPTURES, found, strict=True):
        assert message.format(saved) in done.stderr
        assert (done.returncode, done.stderr.count("\n"), done.stdout, done.heavy) == (2, 1, "", [])
    assert not (saved / "run").exists()


def test_a_corrupt_capture_is_named_before_anything_heavy(saved):
    path = saved / "layer-2.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    done = run("--from-captures", str(saved), "--output-dir", str(saved / "run"))
    assert f"{path}: not a saved attention call" in done.stderr
    assert (done.returncode, done.stderr.count("\n"), done.stdout, done.heavy) == (2, 1, "", [])
    assert not (saved / "run").exists()


def replace_saved(monkeypatch, run):
    experiment = SimpleNamespace(run=run)
    monkeypatch.setitem(sys.modules, "harness.experiments.prefill.saved", experiment)
    monkeypatch.setattr(prefill, "saved", experiment, raising=False)


def test_captures_replace_length_block_size_and_model(saved, monkeypatch):
    configs: list[Any] = []
    replace_saved(monkeypatch, configs.append)
    argv = ["--from-captures", str(saved), "--model", "no/such model", "--layers", "2", "--length", "40"]
    assert __main__.main_job(argv) == 0
    assert (configs[0].length, configs[0].block_size, configs[0].spreads()) == (40, 16, [1, 3])


def test_captures_of_a_batch_replace_the_prompts_and_may_get_runs_of_their_own(tmp_path, monkeypatch):
    call = make_call(lengths=[7, 7, 40], heads=1, kv_heads=1, head_dim=4, block_size=16)
    capture.save(call, tmp_path / "layer-0.safetensors")
    configs: list[Any] = []
    replace_saved(monkeypatch, configs.append)
    for more in ([], ["--batch", "40@2,2x7"]):
        assert __main__.main_job(["--from-captures", str(tmp_path), *more]) == 0
    assert [(c.batch, c.length, c.block_size) for c in configs] == [
        ("2x7,1x40", 40, 16), ("2x7,1x40@2", 40, 16)
    ]  # fmt: skip
    assert configs[0].segments(3) == [1, 1, 3]
    for option in (["--length", "40"], ["--batch", "40,7"]):
        done = run("--from-captures", str(tmp_path), *option)
        assert f"{' '.join(option)}: the captures in {tmp_path} have 2x7,1x40; leave it out" in done.stderr
        assert (done.returncode, done.stderr.count("\n"), done.stdout, done.heavy) == (2, 1, "", [])


@pytest.mark.parametrize("kind", [EngineError, LayoutError, PatchError, capture.CaptureError, RankDied])
def test_a_run_that_fails_for_a_known_reason_is_one_line_and_status_1(saved, monkeypatch, capsys, kind):
    def fail(config):
        raise kind("no room;\ntake less")

    replace_saved(monkeypatch, fail)
    assert __main__.main_job(["--from-captures", str(saved)]) == 1
    assert capsys.readouterr().err == "run_vllm_prefill.py: error: no room; take less\n"


def test_help_names_every_option_and_imports_nothing_heavy():
    code = (
        "import sys; from harness import __main__\ntry: __main__.main_job(['--help'])\n"
        "except SystemExit as end: print(end.code, {'numpy', 'torch', 'vllm'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.endswith("0 set()\n")
    for name in RunConfig.model_fields.keys() - {"engine_options", "print_json"}:
        assert f"--{name.replace('_', '-')}" in done.stdout
    assert "--input-len" in done.stdout
    assert "--json" in done.stdout


def test_a_dry_run_says_what_it_would_measure_and_imports_nothing_heavy(tmp_path):
    options = ["--dry-run", "--length", "128", "--block-size", "32", "--spread-k", "1,4", "--output-dir"]
    (done,) = run_all([("main_job", [*options, str(tmp_path / "run")])])
    assert (done.returncode, done.heavy, (tmp_path / "run").exists()) == (0, [], False)
    assert "prompts: 128 tokens, 4 blocks of 32 tokens\nspread_k: 1, 4\n" in done.stdout
    assert "command: python -m harness prefill --block-size 32 --length 128 --spread-k 1,4" in done.stdout
    (refused,) = run_all([("main_job", [*options[:-1], "--spread-k", "5"])])
    assert (refused.returncode, refused.stdout) == (2, "")


def test_every_experiment_has_a_plan():
    needed = {"advise": ["--prompts", "configs/prompts/passage.txt"]}
    found = run_all([("main", [name, "--dry-run", *needed.get(name, [])]) for name in EXPERIMENTS])
    for name, done in zip(EXPERIMENTS, found, strict=True):
        assert (done.returncode, done.heavy) == (0, []), done.stderr
        assert done.stdout.startswith(f"{name}: {EXPERIMENTS[name].question}\n")
        assert len(done.stdout.splitlines()) >= 6


def complete(words: str) -> list[str]:
    """What bash offers for the last of the words."""
    script = run("completion", function="main").stdout
    line = "; ".join(
        [
            f"COMP_WORDS=({words!s})" if words[-1] != " " else f"COMP_WORDS=({words} '')",
            "COMP_CWORD=$((${#COMP_WORDS[@]} - 1))",
            "_prefill_layout_harness",
            'echo "${COMPREPLY[@]}"',
        ]
    )
    done = subprocess.run(["bash", "-c", f"{script}\n{line}"], cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_a_shell_completes_commands_options_and_values():
    assert complete("prefill-layout-harness ker") == ["kernels"]
    assert complete("prefill-layout-harness kernels --seq") == ["--seq-len-q"]
    assert complete("prefill-layout-harness prefill --timer c") == ["cupti"]
    assert complete("prefill-layout-harness report --tables ") == ["summary", "all"]
    assert "CONTRIBUTING.md" in complete("prefill-layout-harness report CON")


def test_the_script_and_the_package_take_the_same_options():
    script = subprocess.run(
        [sys.executable, "run_vllm_prefill.py", "--length", "0"], cwd=ROOT, capture_output=True, text=True
    )
    package = run("prefill", "--length", "0", function="main")
    assert script.returncode == package.returncode == 2
    assert script.stderr == "run_vllm_prefill.py: error: --length 0: must be at least 1\n"
    assert package.stderr == "python -m harness: error: --length 0: must be at least 1\n"


def test_the_package_refuses_in_one_line_too():
    refused = [
        ("report tests", "tests: holds no run.json; name a run's directory"),
        # A part of a run: its summary.json could not be made again.
        (
            f"report {STUDIED}",
            f"{STUDIED}: holds no samples.jsonl, from which all figures are computed; copy the",
        ),
        (f"compare {STUDIED} {STUDIED}", f"{STUDIED}: holds no samples.jsonl"),
        ("reprot x", "invalid choice: 'reprot'"),
    ]
    kept = (ROOT / STUDIED / "summary.json").read_bytes()
    found = run_all([("main", argv.split()) for argv, _ in refused])
    assert (ROOT / STUDIED / "summary.json").read_bytes() == kept
    for (_, message), done in zip(refused, found, strict=True):
        assert (done.returncode, done.stderr.count("\n"), done.stdout, done.heavy) == (2, 1, "", [])
        assert message in done.stderr


def test_the_package_alone_lists_its_commands():
    done = run(function="main")
    assert (done.returncode, done.stdout, done.heavy) == (2, "", [])
    assert "doctor    check what can run here" in done.stderr


def test_ctrl_c_is_status_130(capsys):
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert __main__.run_guarded("job", interrupted) == 130
    assert capsys.readouterr().err == "job: interrupted\n"
