"""The documentation: links lead somewhere, what is named exists, every key and subcommand is explained."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import harness
from chores import pack, pages
from harness.analysis import stats
from harness.runs.record import Status
from tests.made_up import RUNS
from tests.made_up.views import summary_of

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"`((?:harness|patches|tests|configs|docs|benchmarks|requirements)/[\w./-]+)`")


def prose(page: Path) -> str:
    """Its text without code blocks."""
    return re.sub(r"(?ms)^```.*?^```", "", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Its headings, as GitHub links to them."""
    headings = re.findall(r"(?m)^#+ (.+)$", prose(page))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    listed = re.findall(r"(?m): (\S+\.(?:md|ipynb))$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    docs = ROOT / "docs"
    pages = [*docs.rglob("*.md"), *docs.rglob("*.ipynb")]
    from_root = {"index.md", "changelog.md", "contributing.md"}  # chores/site.py adds them
    assert set(listed) == from_root | {str(page.relative_to(docs)) for page in pages}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page: Path) -> None:
    for name in FILE.findall(prose(page)):
        assert (ROOT / name).exists(), name


FIGURE = re.compile(r"([-+]?[\d.]+)(?:%| ms)? \[([-+]?[\d.]+), ([-+]?[\d.]+)\]")
BOUND = re.compile(r"below ([\d.]+)% \(95%\)")


def stored_figures(row: Any) -> Iterator[tuple[list[float], list[float]]]:
    """Of a summary's rows, to any depth: each 95% interval, with all numbers that stand beside it."""
    if isinstance(row, list):
        for item in row:
            yield from stored_figures(item)
    elif isinstance(row, dict):
        numbers = [value for value in row.values() if isinstance(value, float)]
        yield from ((numbers, value) for key, value in row.items() if "ci95" in key and value)
        yield from stored_figures(list(row.values()))


def open_packed(archive: Path, unpacked: Path) -> harness.Run:
    """A packed run, unpacked into a folder of its own."""
    with tarfile.open(archive) as content:
        content.extractall(unpacked / archive.stem, filter="data")
    return harness.open(unpacked / archive.stem)


def printed_figures(source: Path, unpacked: Path) -> list[tuple[list[float], list[float]]]:
    """The figures of a page, of a stored summary.json, or of a packed run."""
    if source.suffix == ".md":
        found = FIGURE.findall(source.read_text(encoding="utf-8"))
        return [([float(value)], [float(low), float(high)]) for value, low, high in found]
    if source.suffix == ".json":
        return list(stored_figures(json.loads(source.read_text(encoding="utf-8"))))
    return list(stored_figures(open_packed(source, unpacked).summary.to_json()))


def round_as(quoted: str, number: float) -> str:
    """A number with as many decimals as a quoted one."""
    return f"{number:.{len(quoted.partition('.')[2])}f}"


def test_figures_of_the_readme_are_those_of_the_runs_that_their_row_links(tmp_path: Path) -> None:
    """Rounded as they are quoted; a bound is an end of an interval."""
    rows = [row for row in prose(ROOT / "README.md").splitlines() if FIGURE.search(row) or BOUND.search(row)]
    assert rows
    for row in rows:
        stored = [pair for link in LINK.findall(row) for pair in printed_figures(ROOT / link, tmp_path)]
        for quoted in FIGURE.findall(row):
            value, *ends = (round_as(quoted[0], float(number)) for number in quoted)
            assert any(
                ends == [round_as(quoted[0], end) for end in interval]
                and value in (round_as(quoted[0], number) for number in beside)
                for beside, interval in stored
            ), f"{quoted} in {row}"
        pages = [
            (ROOT / link).read_text(encoding="utf-8") for link in LINK.findall(row) if link.endswith(".md")
        ]
        for bound in BOUND.findall(row):
            ends = [round_as(bound, interval[1]) for _, interval in stored]
            assert bound in ends or any(f"below {bound}% (95%)" in page for page in pages), (
                f"{bound} in {row}"
            )


def test_the_answer_in_the_readme_is_a_published_runs(tmp_path: Path) -> None:
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    (quoted,) = re.findall(r"``` (The paged KV cache costs .*?) ```", text)
    runs = set(re.findall(r"\((docs/runs/[\w./-]+\.tar\.xz)\)", text))
    assert quoted in {open_packed(ROOT / run, tmp_path).sentence for run in runs}


def test_readme_lists_every_subcommand() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "harness", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    subcommands = re.findall(r"(?m)^    ([a-z]+) ", shown)
    _, _, table = prose(ROOT / "README.md").partition("| `python -m harness` |")
    table, _, _ = table.partition("\n\n")
    assert subcommands
    assert sorted(re.findall(r"(?m)^\| `([a-z]+)` \|.*\]\(docs/", table)) == sorted(subcommands)


def test_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for key in ("version", "license"):
        assert f'{key} = "{citation[key]}"' in project.splitlines()


def keys(value: Any) -> Iterator[str]:
    """All keys of rows and tables, to any depth, but not of tables whose keys are data."""
    if isinstance(value, list):
        for item in value:
            yield from keys(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            if key not in (
                "config",
                "versions",
                "device",
                "categories",
                "block_ids",
                "peak_memory_bytes",
                "top",
            ):
                yield from keys(item)


def test_every_key_of_a_run_is_explained() -> None:
    text = (ROOT / "docs" / "run-directory.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"`([a-z_0-9]+)`", text))
    for name in ("prefill", "gpu"):
        record, results = RUNS[name].both()
        found = {*keys(record), *keys(summary_of(record, results)), *keys(results[0].to_json())}
        assert found - explained == set()


@pytest.mark.parametrize("page", pages.pages(), ids=lambda page: page.stem)
def test_a_page_that_is_made_is_up_to_date(page: Path) -> None:
    """`make docs` writes it."""
    assert page.read_text(encoding="utf-8") == pages.pages()[page]


def test_a_stored_result_says_of_which_benchmark_where_and_when() -> None:
    for path in pages.RESULTS.glob("*.json"):
        assert (ROOT / "benchmarks" / f"{path.stem}.py").exists()
        found = json.loads(path.read_text(encoding="utf-8"))
        assert found["device"]["name"]
        assert found["date"]
        assert found["rows"]


@pytest.mark.parametrize(
    "archive", sorted((ROOT / "docs" / "runs").glob("*.tar.xz")), ids=lambda path: path.stem
)
def test_published_runs_are_small_and_finished_and_their_samples_are_there(archive: Path) -> None:
    runs = list(pack.read(archive))
    assert archive.stat().st_size <= pack.LARGEST_BYTES * len(runs)
    for record, results in runs:
        assert record.status == "finished"
        assert all(
            len(result.samples_us) >= stats.INTERVAL_SAMPLES
            for result in results
            if result.status is Status.OK and result.cell.kernel != "prefill"
        )
