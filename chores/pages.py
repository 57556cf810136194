"""Generated pages and parts of pages: `make docs` writes them.

    python -m chores.pages

docs/benchmarks.md is made from benchmarks/results, in docs/architecture.md the floors are from the contract
in pyproject.toml and from the first line of every room's docstring, and in docs/run-directory.md the keys
are from their schemas.
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
from pathlib import Path
from typing import Any

from tabulate import tabulate

from chores import keys

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
WIDTH = 110
BENCHMARKS = """\
# How fast and how exact is the harness itself?

`benchmarks/` measures the harness itself: `python benchmarks/NAME.py`; `--help` has options and target.
Results are in `benchmarks/results/` (`--output benchmarks/results/NAME.json`), of which `make docs` makes
this page. Where no versions are named, none were recorded.
"""
# From the one that everyone notices to those that judge the figures.
ORDER = (
    "startup",
    "overhead",
    "summarise",
    "compaction",
    "idle_hooks",
    "stack_depth",
    "null",
    "power",
    "agreement",
)


def main() -> None:
    """Write every page."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


def pages() -> dict[Path, str]:
    """The content of every generated page."""
    architecture, directory = ROOT / "docs" / "architecture.md", ROOT / "docs" / "run-directory.md"
    explained = with_part(directory.read_text(encoding="utf-8"), "run.json", keys.record_keys())
    return {
        directory: with_part(explained, "summary.json", keys.summary_keys()),
        ROOT / "docs" / "benchmarks.md": benchmarks(),
        architecture: with_part(architecture.read_text(encoding="utf-8"), "floors", floors()),
    }


def benchmarks() -> str:
    """The page of the benchmarks' stored results."""
    stored = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")}
    names = sorted(stored, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    return "\n".join([BENCHMARKS, *(_benchmark(name, stored[name]) for name in names)])


def _benchmark(name: str, found: dict[str, Any]) -> str:
    versions = found["versions"] or {}
    software = [f"{package} {version}" for package, version in versions.items() if version]
    where = ", ".join([found["device"]["name"], *software, found["date"]])
    parts = [f"## `{name}`", summary_of(ROOT / "benchmarks" / f"{name}.py"), f"{where}:"]
    parts += [_table(found["rows"])]
    if spreads := found.get("spreads"):
        parts += [f"Spread over {found['processes']} fresh processes:", _table(spreads)]
    return "\n\n".join([*parts, *(_wrap(note) for note in found.get("notes", []))]) + "\n"


def _table(rows: list[dict[str, Any]]) -> str:
    shown = [{name.replace("|", "\\|"): value for name, value in row.items()} for row in rows]
    return tabulate(shown, headers="keys", tablefmt="github", floatfmt=".4g", missingval="-")


def floors() -> str:
    """What lies on each floor."""
    stacked = contract()
    rows = [
        (number if room == rooms[0] else "", f"`{path.relative_to(ROOT)}`", summary_of(path))
        for number, rooms in stacked.items()
        for room in rooms
        for path in [_file_of(room)]
    ]
    return tabulate(rows, headers=("floor", "where", "what"), tablefmt="github")


def contract() -> dict[int, list[str]]:
    """The rooms of each floor, from the highest number down, as in the import contract of `make lint`."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (layers,) = re.findall(r'^type = "layers"$.*?^layers = \[\n(.*?)^\]$', text, re.MULTILINE | re.DOTALL)
    stacked = [re.findall(r"\w+", line) for line in layers.splitlines()]
    stacked[-1].append("patches")  # the contract names only the harness's own
    return {len(stacked) - n: rooms for n, rooms in enumerate(stacked)}


def _file_of(room: str) -> Path:
    base = ROOT / room if room == "patches" else ROOT / "harness" / room
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def summary_of(module: Path) -> str:
    """The first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].replace("|", "\\|")


def with_part(page: str, name: str, text: str) -> str:
    """The page with `text` between its markers `<!-- NAME: make docs -->` and `<!-- NAME: end -->`."""
    begin, end = f"<!-- {name}: make docs -->\n", f"<!-- {name}: end -->\n"
    before, _, rest = page.partition(begin)
    return f"{before}{begin}{text}\n{end}{rest.partition(end)[2]}"


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


if __name__ == "__main__":
    main()
