"""Made-up runs of every experiment, and the texts frozen of them, which `python -m tests.made_up` writes.

A module an experiment holds its data; `builder` makes results and records, `views` what is read of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from harness.compare import view as compare_report
from harness.compare.gate import Limit
from harness.compare.ratios import Comparison, Run, compare
from harness.runs.record import Result
from harness.sweep import view as sweep_view
from tests.made_up import (
    advise,
    allocate,
    backends,
    cache,
    kernels,
    kvcache,
    memory,
    prefill,
    prefill_gpu,
    sweep,
    transfer,
    variants,
    workload,
)
from tests.made_up.builder import DATA, run_record
from tests.made_up.views import Row, document_of, text_of


class MadeUp(NamedTuple):
    """A run: what its run.json and its samples.jsonl hold."""

    record: Callable[[], Row]
    results: Callable[[], list[Result]]

    def both(self) -> tuple[Row, list[Result]]:
        """Its record and its results."""
        return self.record(), self.results()


RUNS = {
    "prefill": MadeUp(prefill.record, prefill.results),
    "gpu": MadeUp(prefill_gpu.record, prefill_gpu.results),
    "variants": MadeUp(variants.record, variants.results),
    "kernels": MadeUp(kernels.record, kernels.results),
    "kernels_others": MadeUp(kernels.record, kernels.other_results),
    "cache": MadeUp(cache.record, cache.results),
    "memory": MadeUp(memory.record, memory.results),
    "backends": MadeUp(backends.record, backends.results),
    "kvcache": MadeUp(kvcache.record, kvcache.results),
    "allocate": MadeUp(allocate.record, allocate.results),
    "kvcache_lost": MadeUp(kvcache.record, lambda: kvcache.results("no_cache")),
    "transfer": MadeUp(transfer.record, transfer.results),
    "advise": MadeUp(advise.record, advise.results),
    "workload": MadeUp(workload.record, workload.results),
}
COMPANIONS = (
    "kernels",
    "cache",
    "memory",
    "backends",
    "kvcache",
    "transfer",
    "allocate",
    "advise",
    "workload",
)
STORED = {"run": "prefill", "cache": "cache"}  # folders of tests/data, written by an earlier version


def comparison() -> Comparison:
    """The main job's run and another."""
    runs = (("A", "runs/old", prefill.record(), prefill.results()), ("B", "runs/new", *prefill.other_run()))
    return compare([Run.of(label, path, run_record(record), of) for label, path, record, of in runs])


def texts() -> dict[str, str]:
    """Every frozen text by the name of its file in tests/data."""
    found = {f"{name}.txt": text_of(document_of(*run.both())) for name, run in RUNS.items()}
    document = document_of(*RUNS["prefill"].both())
    found |= {"tables.md": document.markdown(), "tables.csv": document.csv()}
    found["compare.txt"] = compare_report.screen(comparison(), Limit("slower", 2)) + "\n"
    with tempfile.TemporaryDirectory() as folder:
        tables = sweep_view.write(sweep.write(Path(folder)))
    found |= {"sweep.txt": tables.screen_summary() + "\n", "sweep.csv": tables.csv()}
    return found | {"sweep.md": tables.markdown()}


def write() -> None:
    """Write the frozen texts; the frozen runs stay as an earlier version wrote them."""
    for name, text in texts().items():
        (DATA / name).write_text(text, encoding="utf-8")
