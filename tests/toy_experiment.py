"""The smallest possible experiment: how long does a sum take? Job, view and page in one."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from harness.analysis.figures import cell_row
from harness.config import Common, fields
from harness.config.defaults import DeviceKind
from harness.config.errors import refuse
from harness.config.fields import Count
from harness.experiments import Experiment
from harness.report import tables as text
from harness.report.charts.spec import Axis, Key, Line, Lines, Sheet
from harness.report.document import Document, csv_rows, figures_and_tables
from harness.report.tables import Section, Table, ms
from harness.report.tips import Tips
from harness.runs import summary
from harness.runs.record import Cell, Result, latest
from harness.runs.schema import RunRecord
from harness.runs.summary import CellKeys, Outcome, Timed, WarmUp

GROUPS = {"input": ["sizes", "seed"], **fields.COMMON_GROUPS}


class ToyConfig(Common):
    """What is summed."""

    experiment: ClassVar[str] = "toy"

    sizes: Annotated[list[Count], Field(min_length=1)] = Field([10, 100], description="numbers to add up")


def resolve(config: ToyConfig, device_kind: DeviceKind) -> ToyConfig:
    """Fill in what all experiments have, and check it."""
    resolved = fields.resolve_common(config, device_kind, "toy")
    refuse(fields.common_problems(resolved, device_kind))
    return resolved


def run(config: ToyConfig, source: None = None) -> None:
    """Do it."""
    from harness.experiments import views
    from harness.running.recorder import recording

    recording(config, "a list", job, views.write)


def job(config: ToyConfig, recorder: Any) -> None:
    """One series: one cell a size."""
    from harness.measure import timers
    from harness.measure.sampler import Series
    from harness.running.sampling import Sampling
    from harness.runs.record import Status

    sampling = Sampling(config, recorder)
    series = Series([], [], pairs=[(0, n) for n in range(1, len(config.sizes))])
    for size in config.sizes:
        cell = Cell("sum", "sum", "Python", "list", 0, 0, None, "synthetic", point=(("size", size),))
        result = Result(cell, "toy", Status.OK, readings={"list_bytes": [8.0 * size]})
        series.results.append(result)
        series.steps.append(timers.Step(lambda numbers=list(range(size)): sum(numbers)))
    budget = sampling.budget(1, 1.0)
    if "toy" not in recorder.finished:
        sampling.sample(series, timers.for_device("cpu", "auto", None), budget, config.seed)


class SumRow(Outcome, WarmUp, Timed, CellKeys):
    """One size."""

    size: int
    list_bytes: float | None = None


class Summary(summary.Summary):
    """A row a size."""

    cells: list[SumRow]


def summarise(record: RunRecord, results: list[Result]) -> Summary:
    """A row a size."""
    cells = [SumRow(**cell_row(result)) for result in latest(results)]
    return Summary(status=record.status, cells=cells)


def document(record: RunRecord, summary: Summary) -> Document:
    """One table."""
    lines = [text.Line(str(row.size), (ms(row.median_us, 4), str(row.n))) for row in summary.cells]
    table = Table("How long a sum takes", ("numbers", "median ms", "n"), [Section("", lines)])
    parts = figures_and_tables([table] if lines else [])
    return Document(record, "Sums", f"{len(lines)} sums were measured.", parts, csv_rows(summary.cells))


def charts(record: RunRecord, summary: Summary, tips: Tips) -> list[Sheet]:
    """One."""
    points = [tips.point(row.size, row, f"{row.size} numbers") for row in summary.cells]
    lines = [Line(Key("sum", marker="circle", line="solid"), points)]
    return [Sheet("toy", "Sums", [Lines("How long a sum takes", Axis("numbers"), Axis("ms"), lines)])]


EXPERIMENT = Experiment(
    about="how long a sum takes",
    question="How long does a sum take?",
    config=ToyConfig,
    groups=GROUPS,
    resolve=resolve,
    job=__name__,
    view=__name__,
    charts=__name__,
)
