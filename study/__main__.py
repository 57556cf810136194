"""python -m study: docs/study from the raw runs in docs/runs."""

from __future__ import annotations

import sys
from pathlib import Path

from study import page, points

ROOT = Path(__file__).resolve().parents[1]

try:
    data = points.read(ROOT / "docs" / "runs", ROOT / "configs" / "study")
except (ValueError, OSError) as error:
    sys.exit(f"python -m study: error: {error}")
print(page.write(data, ROOT / "docs" / "study"))
