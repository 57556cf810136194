"""python -m study [RUN_OR_SWEEP ...]: add runs to the study's data, then write its page from the data."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STUDY = ROOT / "docs" / "study"


def main() -> int:
    """Exit status: 0, or 2 if a directory holds no run or there is nothing to write of."""
    parser = argparse.ArgumentParser(prog="python -m study", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN_OR_SWEEP", help="directories to add")
    parser.add_argument(
        "--output",
        type=Path,
        default=STUDY,
        metavar="DIR",
        help="the study's directory (default: docs/study)",
    )
    options = parser.parse_args()

    from study import collect, page
    from study.points import read

    data: Path = options.output / "data"
    try:
        for said in collect.collect(options.runs, data):
            print(said)
        points, failures = read(data)
        if not points:
            raise collect.CollectError(
                f"{data}: holds no points yet; name finished runs or sweeps: make study ARGS=sweeps/core"
            )
    except collect.CollectError as error:
        print(f"python -m study: error: {error}", file=sys.stderr)
        return 2
    print(page.write(points, failures, ROOT / "configs" / "study", options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
