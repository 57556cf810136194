"""Sweeps as a user runs them: real engines, and a stand-in for the main job where only processes matter."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness import device
from harness.__main__ import main_job
from harness.config import ConfigError, fields
from harness.sweep import job, local, plan, process
from harness.sweep.machines import Progress, Task
from tests.command_line import run_here

ROOT = Path(__file__).resolve().parents[2]

# Ends as the point's seed says, with a run directory as the main job leaves it.
STAND_IN = """
import json, os, signal, sys, yaml
from pathlib import Path
options = yaml.safe_load(Path(sys.argv[2]).read_text())
run, seed = Path(sys.argv[4]), options["seed"]
attempts = run / "attempts"
attempts.write_text((attempts.read_text() if attempts.exists() else "") + " ".join(sys.argv[5:]) + "\\n")
(run / "visible").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))

def end(status, **facts):
    record = {"status": status, "device": {"name": "a stand-in", "kind": "cpu"}, "versions": {"x": "1"}}
    record |= {"config": options, "model": {"name": "gpt2"}, "notices": []}
    (run / "run.json").write_text(json.dumps(record | facts))

again = "--resume" in sys.argv
if seed in (1, 6) and not again:  # recorded, and more is printed after it
    end("failed", error="RuntimeError: no\\nroom")
    sys.exit("goodbye")
if seed == 2 and not again:
    end("running")
    os.kill(os.getpid(), signal.SIGKILL)
if seed == 3 and not again:  # Ctrl-C for the sweep while this point runs
    end("running")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.kill(os.getppid(), signal.SIGINT)
    try:
        signal.pause()
    except KeyboardInterrupt:
        end("interrupted")
        sys.exit(130)
if seed == 4 or (seed == 6 and again):
    print("python -m harness: error: not today\\n")
    sys.exit(2)
end("finished")
summary = {"status": "finished", "tolerance_pct": 0.5, "attribution": None}
summary |= {"kernels": [], "contrasts": [], "end_to_end": []}
(run / "summary.json").write_text(json.dumps(summary))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A function that runs a sweep over seeds, and gives its exit status and its points by seed."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(process, "COMMAND", [sys.executable, str(script)])
    monkeypatch.setattr(device, "kind", lambda: "cpu")
    file, directory = tmp_path / "sweep.yaml", tmp_path / "out"

    def run(seeds, resume=False):
        file.write_text(f"base: {{load_format: dummy, length: 64}}\ngrid: {{seed: {seeds}}}")
        status = job.run(plan.read(file), directory, resume)
        points = json.loads((directory / "sweep.json").read_text())["points"]
        return status, {point["options"]["seed"]: point for point in points}

    return run


def test_processes_of_the_main_job_are_a_sweep_over_the_seed(stand_in, tmp_path, capsys):
    command = ["--load-format", "dummy", "--length", "64", "--seed", "10", "--processes", "3", "--output-dir"]
    assert main_job([*command, str(tmp_path / "out")]) == 0
    points = json.loads((tmp_path / "out" / "sweep.json").read_text())["points"]
    assert [point["options"] for point in points] == [
        {"load_format": "dummy", "length": 64, "seed": seed} for seed in (10, 11, 12)
    ]
    batch = ["--load-format", "dummy", "--batch", "2x64", "--seed", "10", "--processes", "2", "--output-dir"]
    assert main_job([*batch, str(tmp_path / "batch")]) == 0
    assert main_job([*command, str(tmp_path / "out"), "--resume"]) == 2
    assert "is finished" in capsys.readouterr().err
    wrong = {
        "0": "--processes 0: must be a number from 1 to 100",
        "2 --overwrite": "--overwrite: is for one run",
    }
    for said, words in wrong.items():
        assert main_job([*command[:-2], *said.split(), "--output-dir", str(tmp_path / "other")]) == 2
        assert words in capsys.readouterr().err


def attempts(tmp_path: Path, point: dict) -> list[str]:
    return (tmp_path / "out" / point["name"] / "attempts").read_text().splitlines()


def test_a_point_that_dies_is_one_failed_row_with_its_reason(stand_in, tmp_path, capsys):
    status, points = stand_in([0, 1, 2, 4])
    assert status == 1
    assert {seed: (point["status"], point["reason"]) for seed, point in points.items()} == {
        0: ("finished", None),
        1: ("failed", "RuntimeError: no room"),
        2: ("failed", "ended with SIGKILL, and the kernel has not killed for memory since it started"),
        4: ("failed", "not today"),
    }
    out = " ".join(capsys.readouterr().out.split())
    assert "4 points, 1 finished, 3 failed" in out
    assert "RuntimeError: no room" in out


def test_resuming_runs_only_what_is_not_finished_and_goes_on_with_runs(stand_in, tmp_path):
    stand_in([0, 1, 2])
    status, points = stand_in([0, 1, 2], resume=True)
    assert status == 0
    assert {point["status"] for point in points.values()} == {"finished"}
    assert attempts(tmp_path, points[0]) == ["--quiet"]
    assert attempts(tmp_path, points[1]) == attempts(tmp_path, points[2]) == ["--quiet", "--quiet --resume"]
    with pytest.raises(ConfigError, match="is finished"):
        stand_in([0, 1, 2], resume=True)


def test_the_reason_is_that_of_the_last_attempt(stand_in):
    _, points = stand_in([0, 6])
    assert points[6]["reason"] == "RuntimeError: no room"
    _, points = stand_in([0, 6], resume=True)
    assert points[6]["reason"] == "not today"


def test_ctrl_c_ends_the_point_that_runs_and_starts_no_other(stand_in, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    status, points = stand_in([0, 3, 5])
    assert status == 130
    assert signal.getsignal(signal.SIGINT) is handler
    assert [points[seed]["status"] for seed in (0, 3, 5)] == ["finished", "interrupted", "waiting"]
    run = json.loads((tmp_path / "out" / points[3]["name"] / "run.json").read_text())
    assert run["status"] == "interrupted", "the process was asked to stop, not killed"
    status, points = stand_in([0, 3, 5], resume=True)
    assert status == 0
    assert attempts(tmp_path, points[3]) == ["--quiet", "--quiet --resume"]


def test_another_sweep_is_not_gone_on_with_nor_overwritten(stand_in, tmp_path):
    stand_in([0, 1])
    with pytest.raises(ConfigError, match="has different points"):
        stand_in([0, 1, 2], resume=True)
    with pytest.raises(ConfigError, match="already holds a sweep"):
        stand_in([0, 1])
    (tmp_path / "out" / "sweep.json").unlink()
    with pytest.raises(ConfigError, match="is not empty and holds no sweep"):
        stand_in([0, 1])


def test_a_point_gets_as_many_gpus_as_it_needs_and_no_two_the_same(stand_in, tmp_path, monkeypatch):
    """Five points on four GPUs; the second needs two."""
    monkeypatch.setattr(device, "kind", lambda: "cuda")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    free, most = {"4", "5", "6", "7"}, []
    seen: dict[int, set[str]] = {}

    def started(task, said):
        taken = set(said.removeprefix("starts on GPU ").split(","))
        assert taken <= free
        free.difference_update(taken)
        seen[task.number] = taken
        most.append(4 - len(free))

    def ended(task, ended):
        assert ended.status == "finished"
        folder = tmp_path / str(task.number)
        assert set((folder / "visible").read_text().split(",")) == seen[task.number]
        free.update(seen[task.number])

    tasks = []
    for number, gpus in enumerate((1, 2, 1, 4, 1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / process.OPTIONS).write_text("seed: 0")
        tasks.append(Task(number, folder, gpus))
    machine = local.ThisMachine()
    assert (machine.kind, machine.most_gpus) == ("cuda", 4)
    machine.run(tasks, Progress(started, ended, threading.Event()))
    assert [len(seen[number]) for number in range(5)] == [1, 2, 1, 4, 1]
    assert max(most) == 4
    assert free == {"4", "5", "6", "7"}


def sweep(*options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "harness", "sweep", *map(str, options)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_real_points_one_of_which_crashes_and_is_run_again(tiny_gpt2, tmp_path):
    """The second model's weights are cut short: only the engine finds out."""
    broken = tmp_path / "broken"
    shutil.copytree(tiny_gpt2, broken)
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[:-1000])
    file, directory = tmp_path / "sweep.yaml", tmp_path / "out"
    file.write_text(
        "base: {length: 100, block_size: 32, enforce_eager: true, spread_k: [1, 4], repeats: 6, layers: [0], "
        "synthetic: false}\n"
        f"grid: {{model: [{broken}, {tiny_gpt2}]}}"
    )
    done = sweep(file, "--output-dir", directory)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    summary = json.loads((directory / "summary.json").read_text())
    command = json.loads((directory / "sweep.json").read_text())["command"]
    assert command == ["python", "-m", "harness", "sweep", str(file), "--output-dir", str(directory)]
    crashed, finished = summary["points"]
    of_point = json.loads((directory / finished["name"] / "run.json").read_text())["command"]
    assert of_point[:5] == ["python", "-m", "harness", "prefill", "--config"]
    assert (crashed["status"], finished["status"]) == ("failed", "finished")
    assert crashed["reason"]
    assert crashed["reason"].removeprefix("EngineError: ") in " ".join(
        (directory / crashed["name"] / "log.txt").read_text().split()
    )
    assert crashed["attribution"] is None
    assert finished["attribution"]["engine_ms"] > 0
    assert "2 points, 1 failed, 1 finished" in done.stdout

    (broken / "model.safetensors").write_bytes(weights)
    samples = directory / finished["name"] / "samples.jsonl"
    before = samples.stat().st_mtime_ns
    done = sweep(file, "--output-dir", directory, "--resume")
    assert done.returncode == 0, done.stderr
    assert "2 points, 2 finished" in done.stdout
    assert samples.stat().st_mtime_ns == before
    assert done.stderr.count("starts on") == 1


def test_bad_points_are_one_line_before_anything_is_made(tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text("grid: {length: [0, 64], load_format: [dummy]}")
    done = run_here("sweep", file, "--output-dir", tmp_path / "out")
    assert (done.returncode, done.stderr.count("\n"), done.stdout) == (2, 1, "")
    assert "--length 0: must be at least 1 (1 of 2 points)" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def ray():
    """What runs tasks on a cluster of this machine, and gives their ends by number."""
    pytest.importorskip("ray")
    from harness.sweep.cluster import RayCluster

    cluster = RayCluster("local")

    def run(tasks: list[Task], stop: threading.Event) -> dict[int, process.Ended]:
        ends: dict[int, process.Ended] = {}
        cluster.run(tasks, Progress(lambda *_: None, lambda task, end: ends.update({task.number: end}), stop))
        return ends

    yield run
    cluster.close()


def test_ray_runs_a_point_and_brings_its_end_back(ray, tmp_path):
    (tmp_path / process.OPTIONS).write_text("length: 0")
    ends = ray([Task(0, tmp_path, 1), Task(1, tmp_path / "elsewhere", 1)], threading.Event())
    assert (ends[0].status, ends[1].status) == ("failed", "failed")
    assert "length: 0: must be at least 1" in ends[0].reason
    assert "all machines of the cluster share" in ends[1].reason
    assert os.environ.get("RAY_ADDRESS") is None


@pytest.mark.engine
def test_a_point_on_ray_is_interrupted_and_keeps_what_it_has(ray, tiny_gpt2, tmp_path):
    (tmp_path / process.OPTIONS).write_text(
        f"{{model: {tiny_gpt2}, length: 100, block_size: 32, enforce_eager: true, repeats: 9999}}"
    )
    stop, ended = threading.Event(), threading.Event()

    def stop_once_it_measures():
        record = tmp_path / "run.json"
        while not ended.is_set() and not (record.exists() and "first_token" in record.read_text()):
            stop.wait(0.2)
        stop.set()

    watcher = threading.Thread(target=stop_once_it_measures)
    watcher.start()
    try:
        ends = ray([Task(0, tmp_path, 1)], stop)
    finally:
        ended.set()
        watcher.join()
    assert ends[0].status == "interrupted"
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "interrupted"
    assert (tmp_path / "summary.json").exists()


def test_without_ray_an_address_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    from harness.sweep.cluster import RayCluster

    with pytest.raises(ConfigError, match="Ray is not installed; pip install"):
        RayCluster("auto")


def test_a_sweep_has_one_writer(stand_in, tmp_path):
    (tmp_path / "out").mkdir()
    descriptor = os.open(tmp_path / "out", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(ConfigError, match="another process is running this sweep"):
        stand_in([7])
    os.close(descriptor)
    assert stand_in([7])[0] == 0


def test_a_clock_that_was_put_back_names_no_sweep_like_an_earlier_one(stand_in, tmp_path, monkeypatch):
    file = tmp_path / "sweep.yaml"
    file.write_text("base: {load_format: dummy, length: 64}\ngrid: {seed: [10]}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fields, "new_output_dir", lambda name: Path("runs") / f"20260102-030405-{name}")
    assert [job.run(plan.read(file), None, False) for _ in range(2)] == [0, 0]
    made = sorted(path.name for path in (tmp_path / "sweeps").iterdir())
    assert made == ["20260102-030405-sweep", "20260102-030405-sweep-2"]
