"""The ranks of tensor parallelism side by side: every one replays the heads that are its own."""

from __future__ import annotations

from harness.report.rows import Mean, Row, change
from harness.report.tables import NONE, Line, Section, Table, ms
from harness.units import counted

COLUMNS = ("rank", "baseline ms", "median ms", "difference", "verdict")
BELOW = (
    "ms per attention call of the engine's kernel, mean over the layers. The tables above show the slowest "
    "rank: the others wait for it in every layer."
)


def table(summary: Row) -> Table | None:
    """The engine's kernel in every rank; None if there is only one."""
    numbers = sorted({row["rank"] for row in summary["kernels"] if row["rank"] is not None})
    if not numbers:
        return None
    means = [Mean(summary, rank) for rank in numbers]
    most = max(means[0].spread_ks())
    compared = {
        "paged in one run against dense": ("dense", "paged@1", 1),
        f"paged, {counted(most, 'run')} against one": ("paged@1", "paged", most),
    }
    sections = [
        Section(f"{kernel}: {heading}", lines)
        for kernel in means[0].engine_kernels()
        for heading, pair in compared.items()
        if (lines := [_line(mean, row) for mean in means if (row := mean.contrast(kernel, *pair))])
    ]
    return Table("Ranks", COLUMNS, sections, below=[BELOW])


def _line(mean: Mean, row: Row) -> Line:
    slowest = mean.rank == mean.summary["slowest_rank"]
    label = f"{mean.rank}, slowest" if slowest else str(mean.rank)
    return Line(label, (*_medians(mean, row), change(row), row["verdict"]))


def _medians(mean: Mean, row: Row) -> tuple[str, str]:
    """Of the baseline and of the treatment, whose own row it is."""
    treatment = mean.kernel(row["kernel"], "paged", row["spread_k"])
    return ms(row["baseline_us"], 4), ms(treatment["median_us"], 4) if treatment else NONE
