"""Finding rows and contrasts in a summary, and turning them into lines of a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from harness.config.kernel_names import WITHOUT_TABLE
from harness.report.tables import Line, Notes, difference, interval, ms, signed

Row = dict[str, Any]
REPAGED_RUNS = re.compile(
    r", \d+ of (\d+) runs"
)  # in the reason of a cell with larger blocks than the engine's


@dataclass(frozen=True)
class Mean:
    """The summary's rows with layer "mean", and those end to end, by what identifies them.

    Of several ranks the slowest one's, unless another is asked for.
    """

    summary: Row
    rank: int | None = None

    @property
    def kernels(self) -> list[Row]:
        """The rows of the one rank."""
        return [row for row in self.summary["kernels"] if row["rank"] == self._rank]

    @property
    def _rank(self) -> int | None:
        slowest: int | None = self.summary["slowest_rank"]
        return slowest if self.rank is None else self.rank

    def kernel(self, kernel: str, arm: str, spread_k: int, data: str = "captured") -> Row | None:
        """A kernel's row."""
        wanted = {"kernel": kernel, "arm": arm, "spread_k": spread_k, "data": data, "layer": "mean"}
        return _find(self.kernels, wanted)

    def cache_write(self, spread_k: int) -> Row | None:
        """The row of the kernel that writes the cache."""
        wanted = {"stage": "cache_write", "spread_k": spread_k, "layer": "mean"}
        return _find(self.kernels, wanted)

    def contrast(
        self, kernel: str, baseline: str, treatment: str, spread_k: int, data: str | None = "captured"
    ) -> Row | None:
        """A contrast's row."""
        wanted: Row = {"kernel": kernel, "baseline": baseline, "treatment": treatment, "spread_k": spread_k}
        whose: Row = {"layer": "mean", "rank": self._rank}
        if kernel == "prefill":
            whose = {"layer": None, "rank": None}
        return _find(self.summary["contrasts"], wanted | whose | {"data": data})

    def prefill_contrast(self, baseline: str, treatment: str) -> Row | None:
        """The contrast of two arms of the prefill that there is one of only, at whatever spread_k."""
        wanted = {"kernel": "prefill", "baseline": baseline, "treatment": treatment}
        return _find(self.summary["contrasts"], wanted)

    def sweep(self) -> list[Row]:
        """The prefill's rows over spread_k; its other arms are not among them."""
        return [row for row in self.summary["end_to_end"] if row["arm"] == "paged"]

    def baseline_us(self, kernel: str, baseline: str, spread_k: int) -> float | None:
        """The median of an arm that is only a baseline inside the series of spread_k ("paged@1")."""
        wanted = {"kernel": kernel, "baseline": baseline, "spread_k": spread_k, "layer": "mean"}
        row = _find(self.summary["contrasts"], wanted | {"data": "captured", "rank": self._rank})
        return row["baseline_us"] if row else None

    def engine_kernels(self) -> list[str]:
        """The kernels the engine itself ran for its attention: those with a dense or a paged arm."""
        rows = [row for row in self.kernels if row["stage"] == "kernel"]
        return list(dict.fromkeys(row["kernel"] for row in rows if row["arm"] in ("dense", "paged")))

    def spread_ks(self) -> list[int]:
        """All spread_k that anything was tried at."""
        return sorted({row["spread_k"] for row in self.kernels + self.sweep()})


def _find(rows: list[Row], wanted: Row) -> Row | None:
    return next((row for row in rows if all(row[key] == value for key, value in wanted.items())), None)


def remark(row: Row) -> str | None:
    """What has to be said about a row below the table: its status, if not ok, and its reason."""
    reason = REPAGED_RUNS.sub(r", at most \1 runs", row["reason"] or "")  # the same words at every spread_k
    if "gather_us" in row and row["median_us"] is not None and total_us(row) is None:
        reason = "; ".join(filter(None, [reason, "its gather was not measured, so there is no total"]))
    if row["status"] == "ok":
        return reason or None
    return f"{row['status']}: {reason or 'no reason was recorded'}"


def most_runs(row: Row) -> int | None:
    """How many runs the arm can have at most, if a larger spread_k changes nothing; None: not limited."""
    found = REPAGED_RUNS.search(row["reason"] or "")
    return int(found[1]) if found else None


def needs_gather(row: Row) -> bool:
    """Whether the arm's kernel runs on what a gather has written."""
    return row["kernel"] in WITHOUT_TABLE and row["arm"] == "fragmented"


def total_us(row: Row) -> float | None:
    """Kernel and gather together, in us; None if either was not measured."""
    if row["median_us"] is None or not needs_gather(row):
        return row["median_us"]  # type: ignore[no-any-return]
    return None if row["gather_us"] is None else row["median_us"] + row["gather_us"]


def heading(kernel: str, row: Row, notes: Notes) -> str:
    """The kernel and whose it is; a stand-in is named as such."""
    provider = row["provider"]
    if "stand-in" not in provider:
        return f"{kernel} ({provider})"
    note = f"{provider}: runs in flash-attn's place on this device; its times say nothing about flash-attn's."
    return f"{kernel} ({provider} {notes.mark(note)})"


def time_line(label: str, row: Row, notes: Notes, digits: int) -> Line:
    """warm-up, average, median, gather and total of one arm; or its status, if nothing was measured."""
    said = remark(row)
    if row["median_us"] is None:
        return Line(label, text=f"{row['status']} {notes.mark(said) if said else ''}".rstrip())
    figures = (row["warmup_us"], row["mean_us"], row["median_us"], row["gather_us"], total_us(row))
    marked = f"{label} {notes.mark(said)}" if said else label
    return Line(marked, tuple(ms(figure, digits) for figure in figures))


def baseline_line(label: str, median_us: float, digits: int) -> Line:
    """The line of an arm of which only the median is in the summary."""
    return Line(label, ("-", "-", ms(median_us, digits), "-", ms(median_us, digits)))


def difference_line(label: str, row: Row | None, digits: int) -> list[Line]:
    """A contrast's line, or none."""
    if row is None:
        return []
    text = difference(row["delta_us"], row["delta_pct"], digits)
    return [Line(label, text=text, interval=interval(row["ci95_pct"]), verdict=row["verdict"])]


def change(row: Row) -> str:
    """A contrast in percent with its interval, e.g. "+0.40% [+0.27, +0.46]"."""
    bounds = row["ci95_pct"]
    return f"{signed(row['delta_pct'])}%" + (f" [{signed(bounds[0])}, {signed(bounds[1])}]" if bounds else "")


def warnings(rows: Iterable[Row], name: Callable[[Row], str]) -> list[str]:
    """A line for each warning of timed rows, with the rows that it is about."""
    timed = [row for row in rows if row["n"]]
    found: dict[str, list[str]] = {}
    for row in timed:
        for warning in row["warnings"]:
            found.setdefault(warning, []).append(name(row))
    return [
        f"Warning: {'all arms' if len(names) == len(timed) > 1 else '; '.join(names)}: {warning}"
        for warning, names in found.items()
    ]


def marked(label: str, row: Row, notes: Notes) -> str:
    """The row's label, with a mark if there is something to say about it."""
    said = remark(row)
    return f"{label} {notes.mark(said)}" if said else label


def folded(lines: list[Line]) -> list[Line]:
    """Lines of a summary that all say the same as one."""
    texts = {line.text for line in lines}
    if len(lines) < 2 or len(texts) > 1 or not lines[0].text:
        return lines
    return [Line("all", text=lines[0].text)]


def named_arm(arm: str, spread_k: int) -> str:
    """An in-engine arm's name in a table: "paged 256" for one among several, "no cache"."""
    return f"paged {spread_k}" if arm == "paged" else arm.replace("_", " ")


def with_reason(shown: str, row: Row, notes: Notes) -> str:
    """A cell, with a mark if its row has a reason: why there is no figure, or what to know of it."""
    return f"{shown} {notes.mark(row['reason'])}" if row["reason"] else shown
