"""Run a sweep: check its points, create or resume its directory, and write its tables at the end."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from harness import cli
from harness.config import ConfigError, fields
from harness.config.checks import folder_problem
from harness.experiments import starting
from harness.experiments.prefill.options import RunConfig
from harness.files import leads_out
from harness.report.screen import Screen
from harness.runs import command
from harness.runs.store import RunDirectory
from harness.runs.writing import write_atomic, write_json
from harness.sweep import RECORD
from harness.sweep import plan as planning
from harness.sweep.local import ThisMachine
from harness.sweep.machines import Machines, Progress, Task
from harness.sweep.plan import Options, Plan
from harness.sweep.process import OPTIONS, Ended, is_finished
from harness.sweep.record import Point, SweepRecord, read
from harness.terminal import escape, show
from harness.units import pluralise

SUMMARY = Screen()


def run(
    plan: Plan,
    output_dir: Path | None,
    resume: bool,
    screen: Screen = SUMMARY,
    ray_address: str | None = None,
    explain: bool = False,
) -> int:
    """Run a sweep and return the exit status.

    0: every point is finished. 1: one or more failed. 130: Ctrl-C. The details are in the sweep's directory.

    Args:
        output_dir: None for a new directory in sweeps/, named by the time and the file.
        resume: resume the sweep in `output_dir`.
        screen: what to print at the end.
        ray_address: of a Ray cluster, or "auto"; None for this machine.
        explain: print why each verdict.

    Raises:
        ConfigError: a point or the directory is invalid; nothing was started.
    """
    directory = (output_dir or _new_directory(plan.path)).resolve()
    if output_dir and not resume:
        _refuse_taken(directory)
    record = _resume(directory, plan, output_dir) if resume else _new(plan)
    machines = _machines(ray_address)
    held = ExitStack()
    try:
        gpus = _check(plan, machines)
        if output_dir is None:
            directory = starting.claim(directory)
        held.enter_context(_lock(directory))
        sweep = Sweep(plan, directory, record, screen)
        tasks = [
            Task(number, directory / point.name, gpus[number])
            for number, point in enumerate(plan.points)
            if sweep.record.points[number].status != "finished"
        ]
        with _stopped_by_signals() as stop:
            machines.run(tasks, Progress(sweep.started, sweep.ended, stop, sweep.show_progress))
        sweep.close(interrupted=stop.is_set(), explain=explain)
    finally:
        machines.close()
        held.close()
    if stop.is_set():
        return cli.INTERRUPTED
    return cli.OK if sweep.all_finished() else cli.FAILED


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    """Let no other process run this sweep; raises ConfigError if one does."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)  # sweep.json is replaced at every change
    try:
        with suppress(OSError):  # a file system that does not lock directories
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(
                    f"{directory}: another process is running this sweep; wait until it ends, or choose "
                    "another --output-dir"
                ) from None
        yield
    finally:
        os.close(descriptor)


class Sweep:
    """Maintains the sweep's record, sweep.json, on disk after every change."""

    def __init__(self, plan: Plan, directory: Path, record: SweepRecord, screen: Screen) -> None:
        self.plan, self.directory, self.record, self.screen = plan, directory, record, screen
        for point, row in zip(plan.points, record.points, strict=True):
            folder = directory / point.name
            options = yaml.safe_dump(point.options, sort_keys=False)
            write_atomic(folder / OPTIONS, options)
            if is_finished(folder):
                row.status, row.reason = "finished", None
        self._write(status="running")
        done = Counter(row.status for row in record.points)["finished"]
        # No bar in a log, where every point has its lines.
        shown: dict[str, Any] = {"disable": screen.quiet or None, "dynamic_ncols": True, "leave": False}
        self.bar = tqdm(total=len(plan.points), initial=done, desc="sweep", unit="point", **shown)

    def started(self, task: Task, text: str) -> None:
        """A point's process starts, or waits for Ray to start it."""
        self._note(task, status="running", reason=None)
        self._say(task, text)

    def ended(self, task: Task, ended: Ended) -> None:
        """A point's process has ended."""
        self._note(task, **asdict(ended))
        self.bar.update()
        after = f" after {ended.seconds:.0f} s" if ended.seconds is not None else ""
        self._say(task, ended.status + after + (f": {ended.reason}" if ended.reason else ""))

    def show_progress(self) -> None:
        """Show how many cells the running points have measured so far."""
        if self.bar.disable:
            return
        running = [
            f"{point.name}: {measured} cells"
            for point, row in zip(self.plan.points, self.record.points, strict=True)
            if row.status == "running"
            and (measured := _count_lines(RunDirectory(self.directory / point.name).samples_path))
        ]
        self.bar.set_postfix_str(", ".join(running))

    def close(self, interrupted: bool, explain: bool) -> None:
        """Write the tables and print them."""
        self.bar.close()
        from harness.sweep import view as report  # pandas

        status = "interrupted" if interrupted else "finished"
        self._write(status=status, finished=_now())
        show(self.screen.format(report.write(self.directory), RunDirectory(self.directory)))
        if explain:
            show(f"\n{report.explain_verdicts(self.directory)}")
        if not self.all_finished():
            print("--resume reruns the unfinished points", file=sys.stderr)

    def all_finished(self) -> bool:
        """Whether every point is finished."""
        return Counter(row.status for row in self.record.points).keys() == {"finished"}

    def _note(self, task: Task, **facts: Any) -> None:
        points = self.record.points
        points[task.number] = points[task.number].model_copy(update=facts)
        self._write()

    def _write(self, **facts: Any) -> None:
        self.record = self.record.model_copy(update=facts)
        write_json(self.directory / RECORD, self.record.to_json())

    def _say(self, task: Task, text: str) -> None:
        name = self.plan.points[task.number].name
        if not self.screen.quiet:
            tqdm.write(escape(f"[{task.number + 1}/{len(self.plan.points)}] {name}: {text}"), file=sys.stderr)


def _count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def _refuse_taken(directory: Path) -> None:
    """Raise ConfigError if a sweep cannot begin in a directory, which the user has named."""
    if (directory / RECORD).exists():
        raise ConfigError(
            f"--output-dir {directory}: already holds a sweep; choose another or --resume to resume it"
        )
    if problem := folder_problem(directory):
        raise ConfigError(f"--output-dir {directory}: {problem}")
    if directory.exists() and any(directory.iterdir()):
        raise ConfigError(f"--output-dir {directory}: is not empty and holds no sweep; choose another")


def _new(plan: Plan) -> SweepRecord:
    """The record of a new sweep."""
    return SweepRecord(
        schema_version=1,
        status="running",
        started=_now(),
        command=command.from_argv(sys.argv),
        file=str(plan.path),
        varies=list(plan.varies),
        points=[
            Point(name=p.name, options=dict(p.options), status="waiting", reason=None) for p in plan.points
        ],
    )


def _resume(directory: Path, plan: Plan, output_dir: Path | None) -> SweepRecord:
    """The record of the sweep to resume."""
    if output_dir is None:
        raise ConfigError("--resume: name the sweep to resume with --output-dir")
    if not (directory / RECORD).is_file():
        raise ConfigError(f"--resume: --output-dir {output_dir} holds no sweep; name the one to resume")
    record = read(directory)
    for row in record.points:
        if leads_out(directory / row.name, directory):
            raise ConfigError(
                f"--resume: {directory / row.name}: a link that leads out of the sweep; remove it"
            )
    then = [(row.name, row.options) for row in record.points]
    if then != [(point.name, point.options) for point in plan.points]:
        raise ConfigError(
            f"--resume: the sweep in {directory} has different points than {plan.path} has now; resume it "
            "with the original file, or start another"
        )
    if all(is_finished(directory / point.name) for point in plan.points):
        raise ConfigError(
            f"--resume: the sweep in {directory} is finished; python -m harness report {output_dir} "
            "prints its tables"
        )
    record.resumed = [*(record.resumed or []), _now()]
    return record


def _machines(ray_address: str | None) -> Machines:
    if ray_address is None:
        return ThisMachine()
    from harness.sweep.cluster import RayCluster

    return RayCluster(ray_address)


def _check(plan: Plan, machines: Machines) -> list[int]:
    """The number of GPUs for each point; raises ConfigError with the problems of any point."""
    gpus: list[int] = []

    def problem_of(options: Options) -> str | None:
        try:
            config = starting.check("prefill", options, machines.kind)
        except ConfigError as error:
            return str(error)
        assert isinstance(config, RunConfig)
        needed = config.tensor_parallel_size
        gpus.append(needed)
        if machines.kind == "cuda" and needed > machines.most_gpus:
            most = pluralise(machines.most_gpus, "GPU")
            return f"--tensor-parallel-size {needed}: the largest machine here has {most}; choose fewer"
        return None

    planning.check(plan, problem_of)
    return gpus


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """An event set by Ctrl-C and by the signals of batch systems and closed terminals."""
    stop = threading.Event()

    def handle(*_: Any) -> None:
        if not stop.is_set():
            with suppress(OSError):  # a handler must not print: the signal may come within a print
                os.write(2, b"interrupted: running points stop and keep what they have measured\n")
        stop.set()

    before = {signal.SIGINT: signal.getsignal(signal.SIGINT)}
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP, which should stay so
            before[number] = signal.SIG_DFL
    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _new_directory(file: Path) -> Path:
    return Path("sweeps") / fields.new_output_dir(file.stem).name


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
