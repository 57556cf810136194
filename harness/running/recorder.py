"""What a run leaves behind while it goes on: its record, its samples, notices, progress and tables."""

from __future__ import annotations

import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import datetime, timezone
from typing import Any, TypeVar

from tqdm import tqdm

import patches
from harness import device
from harness.config import Common
from harness.measure import memory
from harness.measure.blocks import Block
from harness.measure.sampler import Series
from harness.report.document import Document
from harness.runs import command, resume
from harness.runs.record import Result
from harness.runs.schema import Device, Model, RunRecord, RunStatus
from harness.runs.store import Interrupted, RunDirectory
from harness.units import counted

Config = TypeVar("Config", bound=Common)
Write = Callable[[RunDirectory], Document]


class NothingMeasured(RuntimeError):
    """Not one cell of a run has a figure; says why, and where the reason of each is."""


class Recorder:
    """Writes one run's directory. Every change of the record and every result is on disk at once."""

    def __init__(self, config: Common, name: str) -> None:
        """Make the output directory, or open the one to go on with.

        Args:
            config: resolved.
            name: of the model, or of what else is measured.

        Raises:
            RunExists: it holds a run already, and neither --overwrite nor --resume was asked for.
        """
        self.quiet = config.quiet
        self.kept: list[Result] = []
        self.finished: set[str] = set()  # series measured before the run was resumed
        assert config.output_dir is not None
        if config.resume:
            self.directory = RunDirectory.open(config.output_dir)
            self.record = self.directory.record()
            self.kept = self.directory.results()
            self.finished = resume.finished_series(self.kept)
            with self.noting() as record:
                record.status = "running"
                record.resumed = [*(record.resumed or []), _now()]
            return
        self.directory = RunDirectory.create(config.output_dir, config.overwrite)
        self.record = RunRecord(
            schema_version=2,
            experiment=config.experiment,
            status="running",
            started=_now(),
            command=command.typed(sys.argv),
            config=config.model_dump(mode="json"),
            device=Device.model_validate(device.describe()),
            versions=device.versions(),
            model=Model(name=name),
            notices=[],
            peak_memory_bytes={},
        )
        self.directory.write_record(self.record)

    @contextmanager
    def noting(self) -> Iterator[RunRecord]:
        """Inside the block set fields of the record: each is checked as it is set, then all are written."""
        yield self.record
        self.directory.write_record(self.record)

    def notice(self, text: str) -> None:
        """Something every reader of the results must know: on screen, in the tables and in the record."""
        if text not in self.record.notices:
            with self.noting() as record:
                record.notices = [*record.notices, text]
        self.say(f"note: {text}")

    def say(self, text: str) -> None:
        """A line on the screen, above any progress bar."""
        if not self.quiet:
            tqdm.write(text, file=sys.stderr)

    def bar(self, name: str, total: int | None) -> tqdm[Any]:
        """A progress bar on stderr, with the time left."""
        return tqdm(total=total, desc=name, disable=self.quiet, dynamic_ncols=True, leave=False)

    def keep(self, series: Series) -> None:
        """Store a series' results, and the clocks and discarded samples of its blocks."""
        results = self.add(series.results)
        blocks = [_block_record(block) for block in series.blocks if block.reading]
        if any(block["sm_mhz"] is not None for block in blocks):
            self.directory.append_clocks({"series": results[0].series, "blocks": blocks})

    def add(self, results: Sequence[Result]) -> list[Result]:
        """Store results that together are one series, as they are stored."""
        stored = [replace(result, series_size=len(results)) for result in results]
        self.directory.append(stored)
        self.kept += stored
        return stored

    def print(self, table: str) -> None:
        """A table on stdout while the run goes on; nothing if it is empty."""
        if table:
            with tqdm.external_write_mode(file=sys.stdout):
                print(table, end="\n\n", flush=True)

    @contextmanager
    def peak_memory(self, part: str) -> Iterator[None]:
        """Record this process's peak memory of a part of the run, e.g. "spread=4".

        What the part allocated is freed at its end.
        """
        kind = self.record.device.kind
        memory.start_peak(kind)
        try:
            yield
        finally:
            self.note_peak(part, memory.end_peak(kind))

    def note_peak(self, part: str, peak_bytes: int) -> None:
        """Record the peak memory of a part of the run; of several ranks the largest."""
        with self.noting() as record:
            record.peak_memory_bytes = (record.peak_memory_bytes or {}) | {part: peak_bytes}

    def require_figures(self) -> None:
        """Raise NothingMeasured unless some cell has a sample or a reading."""
        if any(result.samples_us or any(result.readings.values()) for result in self.kept):
            return
        reasons = Counter(f"{result.status.value}: {result.reason}" for result in self.kept)
        first = "".join(f" ({reason})" for reason, _ in reasons.most_common(1))
        raise NothingMeasured(
            f"nothing was measured: not one of {counted(len(self.kept), 'cell')} has a figure{first}; "
            f"{self.directory.tables_path} has every reason: ask for less, or for what can run here"
        )

    def finish(self, status: RunStatus, write: Write) -> None:
        """Close the record, have views made of what is on disk, print the end of them."""
        with self.noting() as record:
            record.status, record.finished = status, _now()
        document = write(self.directory)
        if status != "failed":
            print(document.screen_summary(), end="\n\n")
        print(f"report: {self.directory.page_path}", flush=True)


def recording(
    config: Config,
    name: str,
    job: Callable[[Config, Recorder], None],
    write: Write,
    notices: Iterable[str] = (),
) -> None:
    """Do an experiment's job with a run directory that is readable however the job ends.

    Args:
        config: resolved.
        name: of the model, or of what else is measured.
        job: measures and records.
        write: makes summary, tables, plots and page of a run's directory.
        notices: of the model. What every run must say, this adds to them.

    Raises:
        Interrupted: Ctrl-C, SIGTERM or SIGHUP ended it.
        NothingMeasured: the job is done, and could measure no cell.
        Exception: what else ended the job; it is in the record.
    """
    recorder = Recorder(config, name)
    status: RunStatus = "failed"
    try:
        with _interrupted_by_signals():
            for text in filter(None, (*notices, patches.untested())):
                recorder.notice(text)
            job(config, recorder)
            recorder.require_figures()
        status = "finished"
    except KeyboardInterrupt:
        status = "interrupted"
        recorder.say("interrupted; what was measured until now is kept")
        raise Interrupted from None
    except Exception as error:
        with recorder.noting() as record:
            record.error = f"{type(error).__name__}: {error}"
        raise
    finally:
        recorder.finish(status, write)


@contextmanager
def _interrupted_by_signals() -> Iterator[None]:
    """What batch systems and closed terminals send ends a job as Ctrl-C does, its processes included."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    numbers = []
    if threading.current_thread() is threading.main_thread():  # no other may set handlers
        both = (signal.SIGTERM, signal.SIGHUP)  # nohup ignores SIGHUP, and is right
        numbers = [number for number in both if signal.getsignal(number) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _block_record(block: Block) -> dict[str, Any]:
    """A block as clocks.jsonl has it; the samples are in samples.jsonl unless it was discarded."""
    assert block.reading is not None
    about = asdict(block.reading) | {"rounds": block.rounds, "throttled_by": list(block.throttled_by)}
    return about | ({"discarded_us": block.samples} if block.throttled_by else {})


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
