"""What a run was made with and on, its doubts, and the command that makes it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.config import Common, RunConfig
from harness.experiments import EXPERIMENTS
from harness.report.rows import Mean, Row, change

MIB, GIB = 2**20, 2**30
NOT_REPRODUCED = ("output_dir", "overwrite", "resume", "quiet")  # options that change no figure
SHOWN_RUN = (
    "status",
    "error",
    "started",
    "finished",
    "engine_start_s",
    "measuring_s",
    "sampling_s",
    "timer",
    "prompt",
)


@dataclass(frozen=True)
class Facts:
    """A titled list of names and values."""

    title: str
    values: list[tuple[str, str]]


def closing(record: Row, doubts: Sequence[str]) -> Row:
    """The values of closing.html.j2, which ends every run's page."""
    return {
        "notices": record["notices"],
        "warnings": doubts,
        "environment": environment(record),
        "typed": record["command"] and shlex.join(record["command"]),
        "in_full": in_full(record) if record["config"] else None,
        "commit": record["versions"].get("commit"),
    }


def environment(record: Row) -> list[Facts]:
    """Device, versions, model, engine, and how the run went; what the record lacks is left out."""
    run: Row = {name: record[name] for name in SHOWN_RUN if name in record}
    run |= {f"ceiling_{name}": value for name, value in (record.get("ceilings") or {}).items()}
    if peaks := record.get("peak_memory_bytes"):
        run["peak_memory_bytes"] = max(peaks.values())
    parts = {
        "Device": record.get("device"),
        "Versions": record.get("versions"),
        "Model": record.get("model"),
        "Engine": record.get("engine"),
        "Run": run,
    }
    return [Facts(title, _flat(values)) for title, values in parts.items() if values]


def _flat(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name.removesuffix("_bytes").replace("_", " "), _shown(name, value)) for name, value in values.items()
    ]


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if name.endswith("_bytes"):
        return f"{value / GIB:.1f} GiB" if value >= GIB else f"{value / MIB:.1f} MiB"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shown(key, item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_shown(name, item) for item in value)
    return str(value)


def in_full(record: Row) -> str:
    """The command with every option written out that is not its default: also what a YAML file had said."""
    experiment = record["experiment"]
    config: type[Common] = RunConfig
    words = ["python", "run_vllm_prefill.py"]
    if experiment in EXPERIMENTS:
        config, words = EXPERIMENTS[experiment].config, ["python", "-m", "harness", experiment]
    for name, value in record["config"].items():
        field = config.model_fields.get(name)
        left_out = field and value == field.default and name != "length"  # whose default is the device's
        if value is None or name in NOT_REPRODUCED or left_out:
            continue
        if name == "length" and record["config"].get("batch"):  # which says it
            continue
        option = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            words.append(option if value else "--no-" + option[2:])
        else:
            words += [option, ",".join(map(_word, value if isinstance(value, list) else [value]))]
    return shlex.join(words)


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def warnings(summary: Row) -> list[str]:
    """Every doubt about a kernel or a prefill: each kind once an arm, and where else it holds."""
    found: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for row in Mean(summary).kernels:
        if row["layer"] == "mean" and row["data"] == "captured":
            for text in row["warnings"]:
                key = f"{row['kernel']}, {row['arm']}", text.partition(":")[0]
                found.setdefault(key, []).append((row["spread_k"], text))
    for row in summary["end_to_end"]:
        for text in row["warnings"]:
            key = f"prefill, {row['arm'].replace('_', ' ')}", text.partition(":")[0]
            found.setdefault(key, []).append((row["spread_k"], text))
    return [_doubt(name, kind, places) for (name, kind), places in found.items()]


def cell_warnings(summary: Row) -> list[str]:
    """The same of a companion experiment: each kind once, and of how many cells it is true."""
    found: dict[str, list[str]] = {}
    rows = [row for rows in summary.values() if isinstance(rows, list) for row in rows]
    for row in rows:
        for text in row.get("warnings", []):
            found.setdefault(text.partition(":")[0], []).append(f"{row['kernel']}, {row['arm']}: {text}")
    return [
        texts[0] + (f" ({kind} in {len(texts)} cells: see tables.csv)" if len(texts) > 1 else "")
        for kind, texts in found.items()
    ]


def _doubt(name: str, kind: str, places: list[tuple[int, str]]) -> str:
    (k, text), *others = places
    more = f" ({kind} also at spread_k = {', '.join(str(other) for other, _ in others)})" if others else ""
    return f"{name}, spread_k = {k}: {text}{more}"


def sentence(summary: Row) -> str:
    """What the page begins with: the account's sentence, or the prefill's fragmentation without one."""
    if summary.get("attribution"):
        return str(summary["attribution"]["sentence"])
    mean = Mean(summary)
    for k in reversed(mean.spread_ks()):
        if k > 1 and (row := mean.contrast("prefill", "paged@1", "paged", k)):
            return f"{k} runs against one change the prefill by {change(row)}: {row['verdict']}."
    return "Only attention kernels were measured in this run, no whole prefill."
