"""Shared by the benchmarks: where they ran, and how they print."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

if TYPE_CHECKING:
    from harness.experiments.prefill.options import RunConfig
    from harness.models import ModelSource

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that `python benchmarks/NAME.py` finds the harness


def parser_of(description: str | None) -> argparse.ArgumentParser:
    """A parser with a benchmark's description, verbatim, and --output."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output")
    return parser


def sampling_parser(description: str | None, seconds: float) -> argparse.ArgumentParser:
    """The options of a benchmark that samples as the main job does; `seconds` is its default time."""
    parser = parser_of(description)
    parser.add_argument("--seconds", type=float, default=seconds, help="for all sampling")
    parser.add_argument("--precision", type=float, default=0.5, help="percent; ends a series, as in a run")
    parser.add_argument("--timer", default="auto", choices=["auto", "events", "cupti"])
    parser.add_argument("--l2", default="warm", choices=["warm", "cold"])
    return parser


def prefill_parser(description: str | None, length: int) -> argparse.ArgumentParser:
    """The options of a benchmark that prefills one prompt; `length` is its default number of tokens."""
    parser = parser_of(description)
    parser.add_argument("--model", default="gpt2")
    parser.add_argument("--length", type=int, default=length)
    return parser


def report(
    name: str,
    rows: list[dict[str, Any]],
    output: str | None,
    where: Mapping[str, Any] | None = None,
    **more: Any,
) -> None:
    """Print the rows as a table under the device and versions, and write them as JSON if requested.

    Args:
        where: the device, versions and start (ISO 8601) of what was measured elsewhere, as in a run's record.
        more: more entries for the JSON.
    """
    where = where or here()
    about, versions, date = where["device"], where["versions"], where["started"][:10]
    print(f"{name}: {about['name']}, vllm {versions['vllm']}, torch {versions['torch']}, {date}")
    print(tabulate(rows, headers="keys", floatfmt=".4g"))
    if output:
        content = {"benchmark": name, "date": date, "device": about, "versions": versions, "rows": rows}
        content |= more
        Path(output).write_text(json.dumps(content, indent=1) + "\n")


def inputs(model: str, length: int) -> tuple[RunConfig, ModelSource, list[list[int]]]:
    """An engine's configuration, model and prompt, as in the main job."""
    from harness import config, device, models, prompt
    from harness.experiments.prefill.options import RunConfig, resolve

    asked = {"model": model, "length": length}
    settings = resolve(config.load(RunConfig, asked), device.kind())
    source = models.materialise(models.inspect(model, length=length), seed=0)
    token_ids, _ = prompt.token_ids(source, [length], None, 0)
    return settings, source, token_ids


def here() -> dict[str, Any]:
    """The device, its software's versions, and the time, as in a run's record."""
    from harness import device

    started = datetime.now(UTC).isoformat()
    return {"device": device.describe(), "versions": device.versions(), "started": started}
