"""What goes wrong while a run is measured and written, by moment: the finished cells stay, and it goes on."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import cli
from harness.runs.record import latest
from harness.runs.resume import finished_series
from harness.runs.store import RunDirectory
from tests.running.forks import ROOT, SECRET, Done, Fault, Forks, forking

SHAPE = "--length 32 --block-size 16 --num-heads 2 --head-dim 32 --spread-k 1,2 --repeats 6"
RUN = ["kernels", *SHAPE.split()]
VIEWS = ("tables.md", "tables.csv", "report.html", "summary.json")
KILLED = -signal.SIGKILL

# By moment: the fault, the exit status, the record's status (None: no run), series kept, words on stderr.
FAULTS: dict[str, tuple[Fault, int, str | None, int, str]] = {
    "SIGKILL as the record is made": (Fault("replace", "run.json", 1, ("killed",)), KILLED, None, 0, ""),
    "SIGKILL between two series": (
        Fault("append", "samples.jsonl", 2, ("killed",)),
        KILLED,
        "running",
        1,
        "",
    ),
    "SIGKILL as the report is begun": (
        Fault("write", "tables.md", 1, ("killed",)),
        KILLED,
        "finished",
        2,
        "",
    ),
    "SIGKILL as the report is ended": (
        Fault("replace", "summary.json", 1, ("killed",)),
        KILLED,
        "finished",
        2,
        "",
    ),
    "SIGINT as a series is stored": (
        Fault("append", "samples.jsonl", 1, ("interrupted",)),
        cli.INTERRUPTED,
        "interrupted",
        1,
        "interrupted; what has been measured is kept",
    ),
    "SIGTERM as the last series is stored": (
        Fault("append", "samples.jsonl", 2, ("terminated",)),
        cli.INTERRUPTED,
        "interrupted",
        2,
        "interrupted",
    ),
    "SIGHUP as the record is written": (
        Fault("sync", "run.json", 2, ("hung_up",)),
        cli.INTERRUPTED,
        "interrupted",
        0,
        "interrupted",
    ),
    "SIGINT in a finaliser": (
        Fault("append", "samples.jsonl", 1, ("interrupted_in_a_finaliser",)),
        cli.INTERRUPTED,
        "interrupted",
        1,
        "interrupted",
    ),
    "SIGINT twice": (
        Fault("append", "samples.jsonl", 1, ("interrupted", "interrupted")),
        cli.INTERRUPTED,
        "interrupted",
        1,
        "interrupted",
    ),
    "SIGINT and all others as the report is written": (
        Fault("write", "tables.md", 1, ("interrupted", "interrupted", "terminated", "hung_up")),
        cli.OK,
        "finished",
        2,
        "",
    ),
    "the disk is full at the start": (
        Fault("write", "run.json", 1, ("full",), lasting=True),
        cli.FAILED,
        None,
        0,
        "run.json: No space left on device",
    ),
    "the disk is full in the middle": (
        Fault("append", "samples.jsonl", 2, ("full",), lasting=True),
        cli.FAILED,
        "failed",
        1,
        "samples.jsonl: No space left on device; what was measured before is kept",
    ),
    "the disk is full as the report is written": (
        Fault("write", "report.html", 1, ("full",), lasting=True),
        cli.FAILED,
        "finished",
        2,
        "report.html: No space left on device; all results are kept",
    ),
    "the samples may not be written any more": (
        Fault("append", "samples.jsonl", 2, ("read_only",)),
        cli.FAILED,
        "failed",
        1,
        "samples.jsonl: Permission denied",
    ),
    "the samples are removed as the last series is stored": (
        Fault("append", "samples.jsonl", 2, ("unlinked",)),
        cli.FAILED,
        "failed",
        0,
        "samples.jsonl: was removed or replaced",
    ),
    "the run's directory is removed": (
        Fault("append", "samples.jsonl", 1, ("removed",)),
        cli.FAILED,
        None,
        0,
        "was removed",
    ),
}


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    with forking(tmp_path_factory.mktemp("output")) as forks:
        yield forks


@pytest.mark.parametrize("moment", FAULTS)
def test_a_fault_loses_nothing_that_was_measured(forks: Forks, tmp_path: Path, moment: str) -> None:
    fault, status, recorded, kept, word = FAULTS[moment]
    output = tmp_path / "run"
    command = [*RUN, "--output-dir", output]
    done = forks.run(*command, fault=fault)
    assert (done.status, "Traceback" in done.stderr) == (status, False), done.stderr
    assert word in done.stderr
    if status == cli.FAILED:
        assert done.stderr.count("error: ") == 1
    run = RunDirectory(output)
    assert (run.record().status if run.record_path.exists() else None) == recorded
    assert len(finished_series(run.results())) == kept

    before = run.samples_path.read_bytes() if kept else b""
    again = command if recorded is None else [*command, "--resume"]
    if (recorded, status) == ("finished", cli.OK):
        assert_whole(run)
        return
    done = forks.run(*again)
    assert done.status == cli.OK, done.stderr
    assert run.samples_path.read_bytes().startswith(before)
    assert_whole(run)


def assert_whole(run: RunDirectory) -> None:
    """All was measured, once, and the report is there; nothing else is."""
    assert run.record().status == "finished"
    sampled = [result for result in run.results() if result.samples_us]
    assert finished_series(run.results()) == {"spread=1", "spread=2"}
    assert len(sampled) == len(latest(sampled)) > 2
    assert json.loads(run.summary_path.read_text())["status"] == "finished"
    assert all((run.path / name).stat().st_size for name in VIEWS)
    assert not [path for path in run.path.rglob("*") if path.name.endswith(".tmp")]


def test_the_report_of_a_run_killed_in_it_is_completed_by_report_too(forks: Forks, tmp_path: Path) -> None:
    fault = Fault("sync", "report.html", 1, ("killed",))
    assert forks.run(*RUN, "--output-dir", tmp_path, fault=fault).status == KILLED
    assert forks.run("report", tmp_path).status == cli.OK
    assert_whole(RunDirectory(tmp_path))


@pytest.fixture(scope="module")
def finished(forks: Forks, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("finished")
    assert forks.run(*RUN, "--output-dir", output).status == cli.OK
    return output


def test_a_run_records_no_secret_of_the_environment(finished: Path) -> None:
    assert not [p for p in finished.rglob("*") if p.is_file() and SECRET.encode() in p.read_bytes()]


@pytest.mark.parametrize("command", ["report", "compare", "kernels"])
def test_a_full_screen_is_one_line_and_loses_nothing(
    forks: Forks, finished: Path, tmp_path: Path, command: str
) -> None:
    arguments: dict[str, list[object]] = {
        "report": [finished],
        "compare": [finished, finished],
        "kernels": [*RUN[1:], "--output-dir", tmp_path],
    }
    done = forks.run(command, *arguments[command], stdout="/dev/full")
    assert done.status == cli.FAILED
    assert done.stderr.splitlines()[-1].endswith("error: stdout: No space left on device")
    assert "Traceback" not in done.stderr
    if command == "kernels":
        assert_whole(RunDirectory(tmp_path))


@pytest.mark.parametrize("command", ["doctor", "report", "compare"])
def test_a_reader_that_has_enough_is_no_error(finished: Path, command: str) -> None:
    arguments = {"doctor": [], "report": [finished], "compare": [finished, finished]}[command]
    read, write = os.pipe()
    os.close(read)
    words = [sys.executable, "-m", "harness", command, *map(str, arguments)]
    done = subprocess.run(words, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == cli.OK or command == "doctor"  # whose status is the machine's


def test_what_an_encoding_lacks_is_escaped_and_a_notebook_s_backend_is_left_out(finished: Path) -> None:
    environment = os.environ | {
        "PYTHONIOENCODING": "ascii",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    words = [sys.executable, "-m", "harness", "report", str(finished)]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (cli.OK, "")


@pytest.mark.parametrize("how", ["--resume", "--overwrite"])
def test_a_run_has_one_writer(forks: Forks, finished: Path, how: str) -> None:
    with (finished / "samples.jsonl").open("ab") as samples:
        fcntl.flock(samples, fcntl.LOCK_EX)
        before = samples_and_record(finished)
        done = forks.run(*RUN, "--output-dir", finished, how)
    assert_one_line(done, "another process is writing this run (samples.jsonl is locked)")
    assert samples_and_record(finished) == before


def samples_and_record(run: Path) -> tuple[bytes, bytes]:
    return (run / "samples.jsonl").read_bytes(), (run / "run.json").read_bytes()


def assert_one_line(done: Done, word: str) -> None:
    assert (done.status, done.stderr.count("\n")) == (cli.BAD_INPUT, 1), done.stderr
    assert word in done.stderr


def test_lines_with_wrong_types_are_refused_before_anything_is_measured(forks: Forks, tmp_path: Path) -> None:
    fault = Fault("append", "samples.jsonl", 1, ("interrupted",))
    assert forks.run(*RUN, "--output-dir", tmp_path, fault=fault).status == cli.INTERRUPTED
    samples = tmp_path / "samples.jsonl"
    first = json.loads(samples.read_text().splitlines()[0])
    with samples.open("a") as file:
        file.write(json.dumps(first | {"samples_us": ["a"]}) + "\n")
    before = samples_and_record(tmp_path)
    assert_one_line(forks.run(*RUN, "--output-dir", tmp_path, "--resume"), "not a result")
    assert samples_and_record(tmp_path) == before
