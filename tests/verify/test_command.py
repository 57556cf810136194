"""`python -m harness verify`: the whole way with real engines, and when it must not say equal."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.engine.answers import Agreement
from harness.engine.serving import ServingFacts
from harness.runs.schema import EngineSettings
from harness.verify import view
from harness.verify.job import STOCK, Verified
from harness.verify.options import VerifyConfig

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ["python", "-m", "harness", "verify"]


def verify(*argv: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", "verify", *map(str, argv)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.engine
def test_a_model_with_and_without_the_plugin(tiny_gpt2, tmp_path):
    output = tmp_path / "verify.json"
    done = verify(
        "--model", tiny_gpt2, "--mode", "nocache", "--enforce-eager", "--gpu-memory-utilization", 0.1,
        "--batches", "1x50,2x20", "--repeats", 6, "--output", output,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("### Prefill-only plugin: equal\n")
    parts = [line.partition(" (")[0] for line in done.stderr.splitlines() if line.endswith(" s)")]
    assert parts == [
        "2 engines are up",
        "answers and caches are compared",
        "1 x 50 is timed",
        "2 x 20 is timed",
    ]
    found = json.loads(output.read_text())
    assert found["equal"]
    assert found["numbers_written"]["stock"] > 0
    assert found["numbers_written"]["nocache"] == 0
    assert found["engines"]["nocache"]["pool_bytes"] == 0
    assert [each["arm"] for each in found["contrasts"]] == ["stock", "nocache", "stock again (A/A)"] * 2
    assert {len(each["samples_us"]) for each in found["samples"]} == {6}


@pytest.mark.engine
def test_prompts_of_a_trace_are_as_long_as_it_says(tiny_gpt2, tmp_path):
    (tmp_path / "trace.csv").write_text("TIMESTAMP,ContextTokens\n1,30\n2,61\n")
    done = verify(
        "--model", tiny_gpt2, "--prompts", tmp_path / "trace.csv", "--enforce-eager", "--max-model-len", 61,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--max-model-len 61: a prompt has 61 tokens; set it to at least 62" in done.stderr


def test_pairs_are_refused(tmp_path):
    (tmp_path / "pairs.jsonl").write_text('{"text_1": "a", "text_2": "b"}\n')
    done = verify("--prompts", tmp_path / "pairs.jsonl")
    assert done.returncode == 2
    assert done.stderr.strip().endswith("pairs.jsonl: holds pairs to score; name a file of prompts")


@pytest.mark.engine
def test_what_the_plugin_refuses_is_said_in_one_line(tiny_gpt2):
    done = verify(
        "--model", tiny_gpt2, "--mode", "nocache", "--max-num-batched-tokens", 64, "--enforce-eager"
    )
    assert done.returncode == 1
    assert "prompts of up to 128 tokens may be cut into chunks" in done.stderr.splitlines()[-1]


def test_a_dry_run_says_what_it_would_do():
    done = verify("--mode", "step,nocache", "--graphs", "--max-seconds", 20, "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert "step, nocache, step with graphs, nocache with graphs" in done.stdout
    assert "sampling: 20 s" in done.stdout


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["--mode", "all"], "--mode all: must be step or nocache"),
        (["--batches", "8x"], "--batches 8x: must be prompts x tokens, e.g. 8x512"),
        (["--prompts", "none.txt"], "--prompts none.txt: cannot be read: No such file or directory"),
        (["--graphs", "--enforce-eager"], "exclude each other; leave one out"),
        (["--output", "none/x.json"], "--output none/x.json: its directory does not exist; make it first"),
    ],
)
def test_bad_input_is_refused_before_anything_loads(argv, problem):
    done = verify(*argv)
    assert done.returncode == 2
    assert done.stderr.strip().endswith(problem)


GOOD = Agreement(10, 10, 0, 0.02, 0.1, identical=False)
SETTINGS = EngineSettings()
FACTS = ServingFacts("generate", "bfloat16", ("FLASH_ATTN",), "PIECEWISE", None, 2**30, 2**31, 30.0, SETTINGS)


def verified(alone=GOOD, together=GOOD, stock_wrote=1000, plugin_wrote=0):
    return Verified(
        VerifyConfig(), "qwen3-0.6b", "seeded random", {STOCK: FACTS, "step": replace(FACTS, mode="step")},
        {"step": alone}, {"step": together}, GOOD, {STOCK: stock_wrote, "step": plugin_wrote},
    )  # fmt: skip


@pytest.mark.parametrize(
    "bad",
    [
        {"alone": replace(GOOD, worst=0.11)},
        {"together": replace(GOOD, worst=float("nan"))},
        {"together": replace(GOOD, same_tokens=9)},
        {"plugin_wrote": 1},
        {"stock_wrote": 0},  # then the check sees no writes at all
    ],
)
def test_not_equal(bad):
    assert verified().equal
    assert not verified(**bad).equal
    assert view.block(verified(**bad), COMMAND).startswith("### Prefill-only plugin: NOT EQUAL\n")
