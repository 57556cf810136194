"""What a run writes as it proceeds: its record, samples, notices, progress and tables."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from tqdm import tqdm

import patches
from harness import device, interrupts
from harness.analysis import busy_host
from harness.config import Common, engine_options
from harness.measure import elsewhere, memory
from harness.measure.round_batches import RoundBatch
from harness.measure.sampler import Series
from harness.report.document import Document
from harness.report.screen import Screen
from harness.running import error_log
from harness.runs import command, resume
from harness.runs.lock import RunLock
from harness.runs.record import Result
from harness.runs.schema import Device, Model, RunRecord
from harness.runs.store import Interrupted, RunDirectory
from harness.runs.stored import RunStatus
from harness.terminal import escape, show

Config = TypeVar("Config", bound=Common)
Write = Callable[[RunDirectory], Document]


class NothingMeasured(RuntimeError):
    """No cell of a run produced a measurement; says why, and where to find each reason."""


class ReportFailed(RuntimeError):
    """A run's report could not be written; its results are kept."""


class Recorder:
    """Writes one run's directory, which is locked. Every change of the record and every result is on disk
    immediately.
    """

    def __init__(self, config: Common, name: str) -> None:
        """Create the output directory, or open the one to resume.

        Args:
            config: resolved.
            name: of the model, or of whatever else is measured.

        Raises:
            RunExists: it already holds a run, and neither --overwrite nor --resume was given, or another
                process is writing it.
            OSError: the directory cannot be written.
        """
        self.screen = Screen(config.tables, config.print_json, config.quiet)
        self.host_before, self.gpu_processes = elsewhere.read(), elsewhere.gpu_processes()
        self.results: list[Result] = []
        self.finished: set[str] = set()  # series measured before the run was resumed
        assert config.output_dir is not None
        if config.resume:
            self.directory = RunDirectory.open(config.output_dir)
            self._lock = RunLock(self.directory)
            self.record = self.directory.record()
            self.results = self.directory.results()
            self.finished = resume.finished_series(self.results)
            with self.update_record() as record:
                record.status = "running"
                record.resumed = [*(record.resumed or []), _now()]
            return
        self.directory = RunDirectory(config.output_dir)
        self._lock = RunLock.of_new_run(self.directory, config.overwrite)
        RunDirectory.create(config.output_dir, config.overwrite)
        self.record = RunRecord(
            schema_version=2,
            experiment=config.experiment,
            status="running",
            started=_now(),
            command=command.from_argv(sys.argv),
            config=config.model_dump(mode="json"),
            device=Device.model_validate(device.describe()),
            versions=device.versions(),
            model=Model(name=name),
            notices=[],
            peak_memory_bytes={},
        )
        self.directory.write_record(self.record)

    @contextmanager
    def update_record(self) -> Iterator[RunRecord]:
        """Set fields of the record inside the block: each is checked when set, and all are written at the
        end.
        """
        yield self.record
        with interrupts.deferred():
            self.directory.write_record(self.record)

    def notice(self, text: str) -> None:
        """Add a notice for every reader of the results: on screen, in the tables and in the record."""
        if text not in self.record.notices:
            with self.update_record() as record:
                record.notices = [*record.notices, text]
        self.say(f"note: {text}")

    def say(self, text: str) -> None:
        """Print a line, above any progress bar."""
        if not self.screen.quiet:
            tqdm.write(escape(text), file=sys.stderr)

    def bar(self, name: str, total: float, bar_format: str | None = None) -> tqdm[Any]:
        """A progress bar on stderr, with the remaining time."""
        shown: dict[str, Any] = {"dynamic_ncols": True, "leave": False, "disable": self.screen.quiet}
        return tqdm(total=total, desc=name, bar_format=bar_format, **shown)

    def keep(self, series: Series) -> None:
        """Store a series' results, and the clocks and discarded samples of its batches of rounds."""
        with interrupts.deferred():
            results = self.add(series.results)
            batches = [_batch_record(batch) for batch in series.batches if batch.reading]
            if any(batch["sm_mhz"] is not None for batch in batches):
                self.directory.append_clocks({"series": results[0].series, "batches": batches})

    def add(self, results: Sequence[Result]) -> list[Result]:
        """Store results that form one series, and return them as stored."""
        stored = [replace(result, series_size=len(results)) for result in results]
        with interrupts.deferred():
            self._lock.require_samples()
            self.directory.append(stored)
            self.results += stored
        return stored

    @contextmanager
    def peak_memory(self, part: str) -> Iterator[None]:
        """Record this process's peak memory of a part of the run, e.g. "spread=4".

        Memory that the part allocated is freed at its end.
        """
        kind = self.record.device.kind
        memory.start_peak(kind)
        try:
            yield
        finally:
            self.note_peak(part, memory.end_peak(kind))

    def note_peak(self, part: str, peak_bytes: int) -> None:
        """Record the peak memory of a part of the run; of several ranks and passes the largest."""
        with self.update_record() as record:
            peaks = record.peak_memory_bytes or {}
            record.peak_memory_bytes = peaks | {part: max(peak_bytes, peaks.get(part, 0))}

    def require_figures(self) -> None:
        """Raise NothingMeasured unless some cell has a sample or a reading, FileNotFoundError if the stored
        samples were removed.
        """
        self._lock.require_samples()
        if any(result.samples_us or any(result.readings.values()) for result in self.results):
            return
        reasons = Counter(f"{result.status.value}: {result.reason}" for result in self.results)
        first = "".join(f" ({reason})" for reason, _ in reasons.most_common(1))
        raise NothingMeasured(
            f"no cell produced a measurement{first}; the reasons are in {self.directory.tables_path}"
        )

    def note_host_load(self) -> None:
        """Record what the host did besides the run; of several parts of a resumed one the worst."""
        load = elsewhere.between(self.host_before, elsewhere.read(), self.gpu_processes)
        worst = load.model_copy()
        if earlier := self.record.host_load:
            for name in ("other_cpus", "steal_pct", "gpu_processes_before"):
                known = [each for part in (earlier, load) if (each := getattr(part, name)) is not None]
                setattr(worst, name, max(known, default=None))
        with self.update_record() as record:
            record.host_load = worst
        if noise := busy_host.describe(load):
            self.notice(noise)

    def finish(self, status: RunStatus, error: str | None, write: Write) -> None:
        """Close the record, write the views and print what is wanted of them.

        Raises:
            OSError: the record cannot be written.
            ReportFailed: the views cannot be.
        """
        with suppress(OSError):  # how the run ended matters more
            self.note_host_load()
        with self.update_record() as record:
            record.status, record.error, record.finished = status, error, _now()
        try:
            document = write(self.directory)
        except OSError as failure:
            raise ReportFailed(
                f"the report: {failure.filename}: {failure.strerror}; all results are kept, and "
                f"python -m harness report {self.directory.path} writes it"
            ) from failure
        if status == "failed":
            self.say(f"report: {self.directory.page_path}")
        else:
            show(self.screen.format(document, self.directory))

    def release(self) -> None:
        """Let others write the run."""
        self._lock.release()


def recording(
    config: Config,
    name: str,
    job: Callable[[Config, Recorder], None],
    write: Write,
    notices: Iterable[str] = (),
) -> None:
    """Do an experiment's job with a run directory that stays readable however the job ends.

    Args:
        config: resolved.
        name: of the model, or of whatever else is measured.
        job: measures and records.
        write: writes summary, tables, plots and page into a run's directory.
        notices: about the model; notices for every run are added.

    Raises:
        Interrupted: Ctrl-C, SIGTERM or SIGHUP ended it.
        NothingMeasured: the job finished without measuring a cell.
        ReportFailed: it finished, and its report could not be written.
        Exception: anything else that ended the job; it is in the record.
    """
    with interrupts.caught():
        with interrupts.deferred():
            recorder = Recorder(config, name)
        try:
            _record(recorder, config, job, write, notices)
        finally:
            recorder.release()


def _record(
    recorder: Recorder,
    config: Config,
    job: Callable[[Config, Recorder], None],
    write: Write,
    notices: Iterable[str],
) -> None:
    failure: BaseException | None = None
    try:
        with error_log.writing(recorder.directory):
            passed_on = engine_options.notices(getattr(config, "engine_options", {}))
            for text in filter(None, (*notices, *passed_on, patches.untested_remark())):
                recorder.notice(text)
            with error_log.log_raised():
                job(config, recorder)
                interrupts.check()
                recorder.require_figures()
    except BaseException as error:
        failure = error
    with interrupts.finishing():
        status: RunStatus = "failed" if failure else "finished"
        if isinstance(failure, KeyboardInterrupt) or (failure and interrupts.pending()):
            status, failure = "interrupted", Interrupted()
            recorder.say("interrupted; what has been measured is kept")
        try:
            reason = f"{type(failure).__name__}: {failure}" if status == "failed" else None
            recorder.finish(status, reason, write)
        except (OSError, ReportFailed) as error:
            failure = failure or error
    if failure:
        raise failure


def _batch_record(batch: RoundBatch) -> dict[str, Any]:
    """A batch of rounds for clocks.jsonl; the samples are in samples.jsonl unless it was discarded."""
    assert batch.reading is not None
    about = asdict(batch.reading) | {"rounds": batch.rounds, "throttled_by": list(batch.throttled_by)}
    return about | ({"discarded_us": batch.samples} if batch.throttled_by else {})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
