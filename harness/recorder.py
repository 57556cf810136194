"""What a run leaves behind while it goes on: its record, its samples, notices, progress and tables."""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import torch
from tqdm import tqdm

from harness import device, report, resume
from harness.config import RunConfig, output_dir
from harness.record import Result, in_spread
from harness.store import RunDirectory
from harness.summary import summarise


class Recorder:
    """Writes one run's directory. Every change of the record and every result is on disk at once."""

    def __init__(self, config: RunConfig) -> None:
        """Make the output directory, or open the one to go on with.

        Raises:
            RunExists: it holds a run already, and neither --overwrite nor --resume was asked for.
        """
        self.quiet = config.quiet
        self.record: dict[str, Any] = {}
        self.finished: set[str] = set()  # series measured before the run was resumed
        if config.resume and config.output_dir:
            self.directory = RunDirectory.open(config.output_dir)
            self.record = self.directory.record()
            self.finished = resume.finished_series(self.directory.results())
            self.note(status="running", resumed=[*self.record.get("resumed", []), _now()])
            return
        self.directory = RunDirectory.create(output_dir(config), config.overwrite)
        self.record = {
            "schema_version": 1,
            "status": "running",
            "started": _now(),
            "command": sys.argv,
            "config": config.model_dump(mode="json"),
            "device": device.describe(),
            "versions": device.versions(),
            "notices": [],
            "peak_memory_bytes": {},
        }
        self.directory.write_record(self.record)

    def note(self, **facts: Any) -> None:
        """Add to the record."""
        self.record |= facts
        self.directory.write_record(self.record)

    def notice(self, text: str) -> None:
        """Something every reader of the results must know: on screen, in the tables and in the record."""
        if text not in self.record["notices"]:
            self.note(notices=[*self.record["notices"], text])
        self.say(f"note: {text}")

    def say(self, text: str) -> None:
        """A line on the screen, above any progress bar."""
        if not self.quiet:
            tqdm.write(text, file=sys.stderr)

    def bar(self, name: str, total: int | None) -> tqdm[Any]:
        """A progress bar on stderr, with the time left."""
        return tqdm(total=total, desc=name, disable=self.quiet, dynamic_ncols=True, leave=False)

    def keep(self, results: Sequence[Result]) -> None:
        """Store a series' results."""
        results = [replace(result, series_size=len(results)) for result in results]
        self.directory.append(results)

    def show(self, spread_k: int) -> None:
        """Print the table of a spread_k that is measured."""
        results = [result for result in self.directory.results() if in_spread(result.series, spread_k)]
        tables = report.Tables(self.record, summarise(self.record, results))
        with tqdm.external_write_mode(file=sys.stdout):
            print(tables.screen_table(spread_k), end="\n\n", flush=True)

    @contextmanager
    def peak_memory(self, spread_k: int) -> Iterator[None]:
        """Record the peak memory of a spread_k; what it allocated is free again afterwards."""
        on_gpu = self.record["device"]["kind"] == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        try:
            yield
        finally:
            gc.collect()
            if on_gpu:
                peak = torch.cuda.max_memory_allocated()
                torch.cuda.empty_cache()
            else:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            self.note(peak_memory_bytes=self.record["peak_memory_bytes"] | {f"spread={spread_k}": peak})

    def finish(self, status: str) -> None:
        """Close the record, write summary, tables and plots from what is on disk, print the last table."""
        self.note(status=status, finished=_now())
        tables = report.write(self.directory)
        if status != "failed":
            print(tables.screen_summary())
        print(f"results: {self.directory.path}", flush=True)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
