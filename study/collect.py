"""Copy what the study needs of finished runs: small files that live in the repository."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.runs.store import write_atomic
from harness.sweep import RECORD as SWEEP
from study.points import GATHERED, Point, read_record, read_summary

Row = dict[str, Any]

LARGEST_BYTES = 60_000  # of a point's files together
RECORD_KEYS = (
    "schema_version", "status", "error", "started", "finished", "config", "device", "versions", "model",
    "notices", "prompt", "engine", "engine_start_s", "layers", "spread_k", "num_blocks", "engine_spread_k",
    "timer", "ceilings", "injected_ms", "logits_error", "fewest_samples", "measuring_s", "sampling_s",
)  # fmt: skip
SUMMARY_KEYS = ("schema_version", "status", "tolerance_pct", "end_to_end")
BREAKDOWN_KEYS = (
    "sentence", "spread_k", "engine_ms", "engine_ci95_ms", "engine_spread_k", "noise_floor_pct", "layers",
    "layers_replayed", "measured", "predicted", "residual", "residual_pct", "host_bound", "break_even",
)  # fmt: skip
# Keys of rows that are the same in all stored rows, or that the study does not read.
NOT_OF_A_ROW = ("layer", "data", "rank", "mean_us", "warmup_us", "share_of_ceiling_pct", "detectable_pct")
NOT_OF_A_POINT = ("output_dir", "overwrite", "resume", "quiet")


class CollectError(ValueError):
    """One line that names the directory and the problem."""


def collect(paths: Sequence[Path], data: Path) -> Iterator[str]:
    """Add the runs under these directories to `data`; yields a line on the outcome for each run.

    A run that failed is kept with its error and without figures. Of two runs of one point, the later is kept.

    Raises:
        CollectError: a path holds no run, or a summary is larger than the repository should hold.
    """
    for path in paths:
        directories = sorted(file.parent for file in path.rglob("run.json"))
        if not directories:
            raise CollectError(f"{path}: holds no run.json; name a run's directory, or a sweep's")
        if (path / SWEEP).is_file():
            yield from _never_begun(path)
        for directory in directories:
            yield f"{directory}: {_take(directory, data)}"


def _never_begun(sweep: Path) -> Iterator[str]:
    """Points of a sweep that left no run, of which nothing can be kept."""
    for point in json.loads((sweep / SWEEP).read_text(encoding="utf-8"))["points"]:
        if not (sweep / point["name"] / "run.json").is_file():
            yield f"{sweep / point['name']}: left out: {point['status']}, {point['reason'] or 'not begun'}"


def _take(directory: Path, data: Path) -> str:
    record = read_record(directory / "run.json")
    if reason := _why_not(record, directory):
        return f"left out: {reason}"
    summary = None
    if record["status"] == "finished":
        summary = trim_summary(read_summary(directory / "summary.json"))
    record = trim_record(record)
    target = data / _slug(record["device"]["name"]) / name_of(Point(record, summary or {}))
    if (target / "run.json").is_file():
        before = json.loads((target / "run.json").read_text(encoding="utf-8"))
        if (before["status"] == "finished", before["started"]) > (summary is not None, record["started"]):
            return f"left out: {target} has a later or a finished run"
    texts = {"run.json": _lines(record)} | ({"summary.json": _lines(summary)} if summary else {})
    size = sum(len(text.encode()) for text in texts.values())
    if size > LARGEST_BYTES:
        raise CollectError(
            f"{directory}: {size} bytes of summary, the repository takes {LARGEST_BYTES} a point; "
            "run it with fewer values of spread_k"
        )
    target.mkdir(parents=True, exist_ok=True)
    for name in ("run.json", "summary.json"):
        (target / name).unlink(missing_ok=True)
    for name, text in texts.items():
        write_atomic(target / name, text)
    return f"kept in {target}, {size / 1000:.0f} kB"


def _why_not(record: Row, directory: Path) -> str | None:
    """Why a run is not part of the study, or None."""
    if record.get("experiment", "prefill") != "prefill" or record["config"].get("from_captures"):
        return "not the main job with an engine"
    if record["config"].get("batch") or record["config"].get("tensor_parallel_size", 1) > 1:
        return "several prompts or several GPUs: the study is of one prompt on one GPU"
    if record["status"] == "failed":
        return None
    if record["status"] != "finished":
        return f"its status is {record['status']}"
    if not (directory / "summary.json").is_file():
        return f"no summary.json; python -m harness report {directory}"
    return None


def trim_record(record: Row) -> Row:
    """What the study keeps of a run.json: no block tables, no profiles, no paths."""
    trimmed = {key: record[key] for key in RECORD_KEYS if key in record}
    trimmed["config"] = {key: value for key, value in record["config"].items() if key not in NOT_OF_A_POINT}
    trimmed["model"] = record["model"] | {"name": Path(record["model"]["name"]).name}
    trimmed["model"].pop("path", None)
    return trimmed


def trim_summary(summary: Row) -> Row:
    """What the study keeps of a summary.json: the engine's own kernel and the gather, over all layers."""
    engines = {row["kernel"] for row in summary["kernels"] if row["arm"] == "dense"}
    trimmed = {key: summary[key] for key in SUMMARY_KEYS}
    trimmed["kernels"] = [
        row
        for row in _of_mean(summary["kernels"])
        if row["kernel"] in engines or row["stage"] == "cache_write" or _has_the_gather(row)
    ]
    trimmed["contrasts"] = [
        row for row in _of_mean(summary["contrasts"]) if row["kernel"] in (*engines, "prefill")
    ]
    breakdown = summary["attribution"]
    trimmed["attribution"] = breakdown and {key: breakdown.get(key) for key in BREAKDOWN_KEYS}
    return trimmed


def _has_the_gather(row: Row) -> bool:
    """Whether the row has the gather of K and V that flash_attn_func needs."""
    return (row["kernel"], row["arm"]) == GATHERED


def _of_mean(rows: Iterable[Row]) -> Iterator[Row]:
    """The rows over all layers, or of whole prefills, without their common keys."""
    for row in rows:
        if row["layer"] in ("mean", None) and row["data"] == "captured":
            yield {key: value for key, value in row.items() if key not in NOT_OF_A_ROW}


def name_of(point: Point) -> str:
    """A point's directory, named after what was measured, so that a second run replaces the first."""
    config = point.record["config"]
    spreads = point.record.get("spread_k") or config.get("spread_k") or []
    kernel = point.attention if point.summary else f"FA{config.get('flash_attn_version')}"
    parts = [point.model, str(point.length), f"block{point.block_size}", kernel.removeprefix("vLLM ")]
    gap = [point.gap] if point.gap != "shuffled" else []
    return _slug("-".join([*parts, f"{len(spreads)}k", *gap]))


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def _lines(content: Row) -> str:
    """JSON with a line for each key and each row of a list: small, and readable as a diff."""
    parts = []
    for key, value in content.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in value)
            parts.append(f"{json.dumps(key)}: [\n  {rows}\n ]")
        else:
            parts.append(f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "{\n " + ",\n ".join(parts) + "\n}\n"
