"""A sweep's summary.json: its points, and what each one's run has of the figures that the tables show."""

from __future__ import annotations

from pathlib import Path

from harness.analysis.rows import find
from harness.experiments.prefill.rows import PrefillSummary
from harness.report.rows import Mean, Row, remark
from harness.runs.store import RunDirectory


def summarise(record: Row, directory: Path) -> Row:
    """The content of the sweep's summary.json.

    Each point has its run's account ("attribution"), its prefill with all blocks in one run ("prefill"), and
    the engine's kernel ("kernel"); each None where the run has none. `record` is the sweep's own.
    """
    return {
        "schema_version": 2,
        "status": record["status"],
        "varies": record["varies"],
        "points": [point | _of_run(directory / point["name"]) for point in record["points"]],
    }


def _of_run(directory: Path) -> Row:
    """What is told of a point's run; an unfinished one's figures do not count."""
    facts: Row = {"device": None, "versions": None, "notices": []}
    figures: Row = {"attribution": None, "prefill": None, "kernel": None}
    run = RunDirectory(directory)
    if not run.record_path.is_file():
        return facts | figures
    record = run.record()
    facts |= {
        "device": record.device.name,
        "versions": record.versions,
        "notices": record.notices,
    }
    if record.status == "finished" and run.summary_path.is_file():
        summary = run.summary(PrefillSummary).to_json()
        mean = Mean(summary)
        figures = {"attribution": summary["attribution"], "prefill": _prefill(mean), "kernel": _kernel(mean)}
    return facts | figures


def _prefill(mean: Mean) -> Row | None:
    """The prefill in one run in ms, and its fragmentation at the largest spread_k; None: not measured."""
    one_run = find(mean.sweep(), spread_k=1)
    if one_run is None or one_run["median_ms"] is None:
        return None
    most = max(row["spread_k"] for row in mean.sweep())
    again = mean.contrast("prefill", "paged@1", "paged@1 again", 1)
    return {
        **{key: one_run[key] for key in ("median_ms", "ci95_ms", "n")},
        "noise_floor_pct": again and again["noise_floor_pct"],
        "fragmentation": mean.contrast("prefill", "paged@1", "paged", most),
    }


def _kernel(mean: Mean) -> Row | None:
    """What the engine's kernel pays for the block table, and for the largest spread_k; None: not replayed.

    Either is a contrast's row of a run's summary or None; then `reasons` has why, under the same name.
    """
    for kernel in mean.engine_kernels():
        ks = sorted({row["spread_k"] for row in mean.kernels if row["kernel"] == kernel})
        paging = mean.contrast(kernel, "dense", "paged@1", 1)
        fragmentation = mean.contrast(kernel, "paged@1", "paged", ks[-1])
        no_paging = "spread_k = 1 was not replayed" if ks[0] > 1 else _why_not(mean, kernel, 1)
        no_split = "only spread_k = 1 was replayed" if ks == [1] else _why_not(mean, kernel, ks[-1])
        return {
            "kernel": kernel,
            "paging": paging,
            "fragmentation": fragmentation,
            "reasons": {
                "paging": None if paging else no_paging,
                "fragmentation": None if fragmentation else no_split,
            },
        }
    return None


def _why_not(mean: Mean, kernel: str, spread_k: int) -> str:
    """What is said of the arms that there is no contrast of."""
    arms = (mean.kernel(kernel, arm, spread_k) for arm in ("dense", "paged"))
    said = [remark(row) for row in arms if row and row["median_us"] is None]
    return next(filter(None, said), "not measured")
