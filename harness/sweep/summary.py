"""A sweep's summary.json: its points, with the figures of each run that the tables show."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from harness.analysis.breakdown.rows import Breakdown
from harness.analysis.rows import ContrastRow, find
from harness.experiments.prefill.mean import Mean
from harness.experiments.prefill.rows import PrefillSummary
from harness.experiments.views import fitting
from harness.files import leads_out
from harness.report.rows import remark
from harness.runs.store import RunDirectory
from harness.runs.stored import Amount, Count, Interval, RunStatus, Stored
from harness.runs.writing import Damaged
from harness.sweep import between
from harness.sweep.between import BetweenRow
from harness.sweep.record import Point, SweepRecord


class PointPrefill(Stored):
    """The prefill with all blocks in one segment."""

    median_ms: Amount
    ci95_ms: Interval | None
    n: Count = Field(description="samples")
    noise_floor_pct: Amount | None = Field(description="by A/A or the placebo, whichever is more")
    fragmentation: ContrastRow | None = Field(description="the largest spread_k against one segment")


class PointKernel(Stored):
    """What the engine's kernel pays for the block table, and for the largest spread_k."""

    kernel: str
    paging: ContrastRow | None
    fragmentation: ContrastRow | None
    reasons: dict[str, str | None] = Field(description="by contrast: why there is none")

    @property
    def contrasts(self) -> dict[str, ContrastRow]:
        """Those that there are, by name."""
        both = {"paging": self.paging, "fragmentation": self.fragmentation}
        return {name: row for name, row in both.items() if row}


class PointSummary(Point):
    """A point with what its finished run has; null where that has none."""

    device: str | None = None
    versions: dict[str, str | None] | None = None
    notices: list[str] = Field(default=[])
    attribution: Breakdown | None = None
    prefill: PointPrefill | None = None
    kernel: PointKernel | None = None


class SweepSummary(Stored):
    """What a sweep's summary.json holds."""

    schema_version: Literal[2] = 2
    status: RunStatus
    varies: list[str]
    points: list[PointSummary]
    between: list[BetweenRow] = Field(default=[], description="of points that differ in their seed alone")


def summarise(record: SweepRecord, directory: Path) -> SweepSummary:
    """The content of the sweep's summary.json."""
    points = [_summarise_point(point, directory) for point in record.points]
    return SweepSummary(
        schema_version=2,
        status=record.status,
        varies=record.varies,
        points=points,
        between=between.rows(points),
    )


def _summarise_point(point: Point, directory: Path) -> PointSummary:
    """A point with what its run tells, or why that cannot be read; an unfinished one's figures do not
    count.
    """
    run = RunDirectory(directory / point.name)
    try:
        if leads_out(run.path, directory):
            raise Damaged(f"{run.path}: a link that leads out of the sweep")
        with fitting(run.path):
            return _read_point(point, run)
    except Damaged as error:
        point = point.model_copy(update={"status": "failed", "reason": str(error)})
        return _without_figures(point)


def _without_figures(point: Point) -> PointSummary:
    return PointSummary(
        **point.model_dump(exclude_unset=True),
        device=None,
        versions=None,
        notices=[],
        attribution=None,
        prefill=None,
        kernel=None,
    )


def _read_point(point: Point, run: RunDirectory) -> PointSummary:
    summary = _without_figures(point)
    if not run.record_path.is_file():
        if point.status == "finished":
            raise Damaged(f"{run.path}: its run is missing")
        return summary
    record = run.record()
    summary.device, summary.versions = record.device.name, record.versions
    summary.notices = record.notices
    if record.status == "finished" and run.summary_path.is_file():
        of_run = run.summary(PrefillSummary)
        mean = Mean(of_run)
        summary.attribution = of_run.attribution
        summary.prefill, summary.kernel = _prefill(mean), _kernel(mean)
    return summary


def _prefill(mean: Mean) -> PointPrefill | None:
    """None: not measured."""
    one_segment = find(mean.sweep(), spread_k=1)
    if one_segment is None or one_segment.median_ms is None:
        return None
    most = max(row.spread_k for row in mean.sweep())
    again = mean.contrast("prefill", "paged@1", "paged@1 again", 1)
    return PointPrefill(
        median_ms=one_segment.median_ms,
        ci95_ms=one_segment.ci95_ms,
        n=one_segment.n,
        noise_floor_pct=again.noise_floor_pct if again else None,
        fragmentation=mean.contrast("prefill", "paged@1", "paged", most),
    )


def _kernel(mean: Mean) -> PointKernel | None:
    """None: not replayed."""
    for kernel in mean.engine_kernels():
        ks = sorted({row.spread_k for row in mean.kernels if row.kernel == kernel})
        paging = mean.contrast(kernel, "dense", "paged@1", 1)
        fragmentation = mean.contrast(kernel, "paged@1", "paged", ks[-1])
        no_paging = "spread_k = 1 was not replayed" if ks[0] > 1 else _why_not(mean, kernel, 1)
        no_split = "only spread_k = 1 was replayed" if ks == [1] else _why_not(mean, kernel, ks[-1])
        return PointKernel(
            kernel=kernel,
            paging=paging,
            fragmentation=fragmentation,
            reasons={
                "paging": None if paging else no_paging,
                "fragmentation": None if fragmentation else no_split,
            },
        )
    return None


def _why_not(mean: Mean, kernel: str, spread_k: int) -> str:
    """The reason why there is no contrast, from its arms."""
    arms = (mean.kernel(kernel, arm, spread_k) for arm in ("dense", "paged"))
    remarks = [remark(row) for row in arms if row and row.median_us is None]
    return next(filter(None, remarks), "not measured")
