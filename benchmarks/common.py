"""What the benchmarks share: where they ran, and how they print."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # so that `python benchmarks/NAME.py` finds the harness


def report(name: str, rows: list[dict[str, Any]], output: str | None) -> None:
    """Print the rows as a table under the device and versions; write them as JSON too if asked."""
    from harness import device

    about, versions = device.describe(), device.versions()
    today = datetime.now(timezone.utc).date().isoformat()
    print(f"{name}: {about['name']}, vllm {versions['vllm']}, torch {versions['torch']}, {today}")
    print(tabulate(rows, headers="keys", floatfmt=".4g"))
    if output:
        content = {"benchmark": name, "date": today, "device": about, "versions": versions, "rows": rows}
        Path(output).write_text(json.dumps(content, indent=1) + "\n")
