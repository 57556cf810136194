"""The order of candidates, what becomes of those that fail, time, resuming; and once with real engines."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import __main__
from harness.engine.child import EngineFailed
from harness.engine.serving import Answer, Ran
from harness.experiments.advise import bench, inputs
from harness.experiments.advise.inputs import Given
from harness.runs.record import Status
from harness.runs.schema import EngineSettings
from harness.runs.store import RunDirectory

ROOT = Path(__file__).resolve().parents[3]
PROMPTS = [[1] * 100, [2] * 200, [3] * 300]


class Engines:
    """Stands for `Child`: engines whose times follow from their arguments; what was started, in order."""

    def __init__(self) -> None:
        self.started: list[tuple[str | None, dict[str, Any]]] = []
        self.alive = 0
        self.most_alive = 0

    def __call__(self, make: Any, setup: Any) -> Any:
        own = {name: value for name, value in setup.arguments.items() if name != "max_model_len"}
        self.started.append((setup.mode, own))
        if own.get("block_size") == 64:
            raise EngineFailed(Status.OUT_OF_MEMORY, "no room for blocks of 64")
        self.alive += 1
        self.most_alive = max(self.most_alive, self.alive)
        return Engine(self, setup.mode, own)


class Engine:
    def __init__(self, engines: Engines, mode: str | None, own: dict[str, Any]) -> None:
        self.engines, self.own, self.calls = engines, own, 0
        self.us = 1000.0 - 200 * (mode == "step") - 100 * (own.get("async_scheduling") is False)
        settings = EngineSettings(
            block_size=16, max_model_len=301, max_num_batched_tokens=512, max_num_seqs=8, enforce_eager=True,
            prefix_caching=mode is None, async_scheduling=True, attention_backend=["TRITON_ATTN"],
        )  # fmt: skip
        self.facts = SimpleNamespace(mode=mode, dtype="float32", settings=settings)

    def ask(self, name: str, *arguments: Any) -> Any:
        if name == "answers":
            wrong = {1024: 1.0, 256: math.nan}.get(self.own.get("max_num_batched_tokens"), 0.0)
            return [Answer(1, {1: -0.5 - wrong}, ())] * len(arguments[0])
        self.calls += 1
        return Ran(self.us * sum(map(len, arguments[0])) * (1 + 0.001 * (self.calls % 3)), 0)

    def close(self) -> None:
        self.engines.alive -= 1

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


@pytest.fixture
def engines(monkeypatch, tmp_path) -> Engines:
    engines = Engines()
    arguments = {"max_model_len": 301}
    given = Given(arguments, arguments, None, "dummy", PROMPTS, "3 requests of p.txt", ())
    monkeypatch.setattr(inputs, "read", lambda config: given)
    monkeypatch.setattr(bench, "Child", engines)
    (tmp_path / "p.txt").write_text("a text\n")
    return engines


def advise(folder: Path, tried: str, *argv: str) -> int:
    options = ["--prompts", str(folder / "p.txt"), "--output-dir", str(folder / "run"), "--quiet"]
    return __main__.main(["advise", *options, "--repeats", "8", "--try", tried, *argv])


def read(folder: Path) -> tuple[RunDirectory, dict[str, Any]]:
    run = RunDirectory.open(folder / "run")
    return run, json.loads(run.summary_path.read_text())


def test_one_change_at_a_time_beside_stock_then_the_best_together(engines, tmp_path):
    assert advise(tmp_path, "plugin-step,async,graphs") == 0
    step = {"enable_prefix_caching": False, "enable_chunked_prefill": False}
    alone = {"async_scheduling": False}
    assert engines.started == [
        (None, {}), (None, {}), ("step", step), (None, alone), ("step", step | alone)
    ]  # fmt: skip
    assert (engines.most_alive, engines.alive) == (2, 0)
    run, summary = read(tmp_path)
    assert [*run.record().candidates] == [
        "stock", "stock again", "graphs", "plugin-step", "async", "plugin-step+async"
    ]  # fmt: skip
    rows = {(r["contrast"], r["metric"]): r["delta_pct"] for r in summary["contrasts"]}
    for metric in ("throughput", "latency"):
        assert rows["plugin-step+async", metric] == pytest.approx(-30, abs=0.2)
        assert rows["A/A", metric] == pytest.approx(0, abs=0.2)


def test_candidates_that_fail_are_listed_with_their_reason(engines, tmp_path):
    assert advise(tmp_path, "block-size=64,tokens=1024,tokens=256,graphs,plugin-step") == 0
    run, _ = read(tmp_path)
    reasons = {r.cell.arm: (r.status, r.reason) for r in run.results() if not r.samples_us}
    assert reasons == {
        "block-size=64": (Status.OUT_OF_MEMORY, "no room for blocks of 64"),
        "tokens=1024": (
            Status.WRONG_OUTPUT, "its answers are not stock's: worst difference 1, allowed 0.001"
        ),
        "tokens=256": (
            Status.WRONG_OUTPUT, "its answers are not stock's: worst difference nan, allowed 0.001"
        ),
        "graphs": (Status.UNSUPPORTED, "CUDA graphs need a GPU"),
    }  # fmt: skip
    assert engines.alive == 0


def test_two_engines_of_stock_start_at_once_where_their_cache_has_a_size(engines, tmp_path, monkeypatch):
    given = inputs.read(None)
    arguments = given.arguments | {"kv_cache_memory_bytes": 2**30}
    monkeypatch.setattr(inputs, "read", lambda config: replace(given, arguments=arguments))
    assert advise(tmp_path, "async") == 0
    assert len(engines.started) == 3
    _, summary = read(tmp_path)
    assert {row["contrast"] for row in summary["contrasts"]} == {"A/A", "async"}
    assert engines.alive == 0


def test_no_second_engine_is_an_error_as_nothing_could_be_recommended(engines, tmp_path, monkeypatch, capsys):
    def one(make: Any, setup: Any) -> Any:
        if engines.started:
            raise EngineFailed(Status.OUT_OF_MEMORY, "no memory left")
        return engines(make, setup)

    monkeypatch.setattr(bench, "Child", one)
    assert advise(tmp_path, "async") == 1
    assert "no second engine starts beside stock's: no memory left" in capsys.readouterr().err
    assert engines.alive == 0


def test_what_the_time_did_not_allow_is_tried_when_resumed(engines, tmp_path):
    assert advise(tmp_path, "plugin-step,async", "--max-seconds", "0.001") == 0
    run, _ = read(tmp_path)
    left = {r.cell.arm for r in run.results() if r.status is Status.INTERRUPTED}
    assert left == {"plugin-step", "async"}
    before = len(engines.started)
    assert advise(tmp_path, "plugin-step,async", "--max-seconds", "100", "--resume") == 0
    started = engines.started[before:]
    assert [mode for mode, _ in started] == [None, "step", None, "step"]  # stock, and no second A/A
    run, summary = read(tmp_path)
    assert {row["outcome"] for row in summary["candidates"]} <= {"helps", "unclear"}  # a busy host decides
    assert advise(tmp_path, "plugin-step,async", "--max-seconds", "100", "--resume") == 2


@pytest.mark.engine
def test_real_engines_with_two_changes(tmp_path):
    """On a CPU: a refused change starts no engine, the plugin gives stock's answers."""
    prompts = tmp_path / "p.jsonl"
    prompts.write_text('{"prompt": "The capital of France is"}\n{"prompt": "Once upon a time"}\n')
    options = f"--model smollm2-135m --prompts {prompts} --output-dir {tmp_path / 'run'} --enforce-eager"
    command = f"-m harness advise {options} --repeats 6 --try graphs,plugin-step".split()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    run, summary = read(tmp_path)
    step = run.record().candidates["plugin-step"]
    assert step.settings.prefix_caching is False
    assert step.worst == 0  # bit for bit
    assert step.serve.startswith("VLLM_PREFILL_ONLY=step vllm serve smollm2-135m --enforce-eager")
    assert [(r.cell.arm, r.status) for r in run.results() if not r.samples_us] == [
        ("graphs", Status.UNSUPPORTED)
    ]
    measured = {(r["candidate"], r["contrast"], r["metric"]) for r in summary["contrasts"]}
    assert measured == {
        (name, contrast, metric)
        for name, contrast in (("stock again", "A/A"), ("plugin-step", "plugin-step"))
        for metric in ("throughput", "latency")
    }
    if summary["recommended"]:  # a busy host decides nothing
        assert "vllm serve smollm2-135m" in done.stdout


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        ("", "--prompts: is missing; name a file of prompts, e.g. with one text a line"),
        ("--prompts none.txt", "--prompts none.txt: cannot be read: No such file or directory"),
        ("--prompts {}/pairs.jsonl", "holds pairs to score; write each as one text, as the model's "),
        ("--prompts {}/p.txt --try graph", "--candidates graph: no such change; the nearest is "),
        ("--prompts {}/p.txt --max-num-batched-token 1", "--max-num-batched-token: unknown "),
        ("--prompts {}/p.txt --model gpt3", "--model gpt3"),
    ],
)
def test_bad_input_is_refused_in_one_line(argv, problem, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "p.txt").write_text("a text\n")
    (tmp_path / "pairs.jsonl").write_text('{"text_1": "a", "text_2": "b"}\n')
    words = argv.format(tmp_path).split()
    assert __main__.main(["advise", *words, "--output-dir", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert problem in line


def test_a_prompt_of_another_model_s_ids_is_refused(tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text("[1, 2, 999999]\n")
    command = ["advise", "--prompts", str(tmp_path / "p.jsonl"), "--model", "gpt2-1-layer"]
    assert __main__.main([*command, "--output-dir", str(tmp_path / "run")]) == 2
    assert "line 1: token id 999999: the model's go up to" in capsys.readouterr().err
