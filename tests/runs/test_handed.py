"""Runs from other people: whatever their files hold, reading them ends in figures or in one line."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import api
from harness.__main__ import main
from harness.experiments import views
from harness.runs.schema import RunRecord
from harness.runs.store import RunDirectory
from harness.runs.writing import Damaged

STORED = Path(__file__).parents[1] / "data"
JUNK = st.sampled_from(
    [None, True, 0, -1, 7, 2**31, 10**30, 0.5, -0.5, 1e308, "", "x", "\x1b[31m", "$\\frac{", "257-384",
     "4x1024", [], {}, [1], ["a"], {"a": 1}, {"1": 2}, [[[]]]]
)  # fmt: skip
DELETED = object()


def keys(data: Any, *way: str | int) -> list[tuple[str | int, ...]]:
    """The way to each value inside the data, of a list to its first three."""
    items = data.items() if isinstance(data, dict) else enumerate(data[:3]) if isinstance(data, list) else ()
    return [each for name, inner in items for each in ((*way, name), *keys(inner, *way, name))]


@st.composite
def spoiled(draw: st.DrawFn, data: Any) -> Any:
    """The data with one value changed or left out."""
    data = copy.deepcopy(data)
    *way, last = draw(st.sampled_from(keys(data)))
    inner = data
    for name in way:
        inner = inner[name]
    value = draw(JUNK | st.just(DELETED))
    if value is DELETED:
        del inner[last]
    else:
        inner[last] = value
    return data


@st.composite
def handed(draw: st.DrawFn, stored: Path) -> tuple[Any, list[Any]]:
    """A record and lines of samples, one of them spoiled, some lines lost."""
    record = json.loads((stored / "run.json").read_text())
    lines = [json.loads(line) for line in (stored / "samples.jsonl").read_text().splitlines()]
    if draw(st.booleans()):
        return draw(spoiled(record)), lines
    n = draw(st.integers(0, len(lines) - 1))
    return record, [*lines[: draw(st.sampled_from([0, n, n]))], draw(spoiled(lines[n])), *lines[n + 1 :]]


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """What happens inside ends well, or in one line that begins with the path."""
    told = ""
    try:
        yield
    except Damaged as error:
        told = str(error)
    assert "\n" not in told
    assert not told or told.startswith(str(path))


@pytest.mark.parametrize("experiment", ["run", "cache"])
@pytest.mark.fuzz
@settings(max_examples=40)
@given(data=st.data())
def test_a_handed_run_ends_in_figures_or_in_one_line(
    experiment: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    record, lines = data.draw(handed(STORED / experiment))
    run = RunDirectory(tmp_path_factory.mktemp("run"))
    run.record_path.write_text(json.dumps(record))
    run.samples_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with one_line(run.path):
        read, results = run.record(), run.results()
        with views.fitting(run.path):
            summary = views.summarise(read, results)
            views.view_of(views.experiment_of(read)).document(read, summary).screen_summary()
            views.charts(read, summary, results)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STORED / "run", tmp_path / "run"))


@pytest.mark.parametrize("name", ["run.json", "samples.jsonl"])
def test_a_file_that_leads_out_of_the_run_is_not_read(
    run: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / name).rename(run.parent / name)
    (run / name).symlink_to(run.parent / name)
    assert main(["report", str(run)]) == 2
    assert f"{name}: damaged (a link that leads out" in capsys.readouterr().err


@pytest.mark.parametrize("batch", ["/etc/passwd", "/dev/zero", "no such file", [4], "2000x1"])
def test_the_batch_of_a_record_is_text_and_never_opened_as_a_file(batch: object) -> None:
    record = json.loads((STORED / "run" / "run.json").read_text())
    with pytest.raises(ValueError, match=r"^config: .*(not a length|must be)") as error:
        RunRecord.parse(record | {"config": record["config"] | {"batch": batch}})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("length", [10**30, {}, "x", 0, -1, True])
def test_the_length_of_a_record_is_a_number_of_tokens(length: object) -> None:
    record = json.loads((STORED / "run" / "run.json").read_text())
    with pytest.raises(ValueError, match="config"):
        RunRecord.parse(record | {"config": record["config"] | {"length": length}})


def test_an_interrupted_run_that_was_resumed_and_killed_has_the_figures_of_now(run: Path) -> None:
    directory = RunDirectory(run)
    views.write(directory)
    summary = json.loads(directory.summary_path.read_text()) | {"status": "interrupted"}
    directory.summary_path.write_text(json.dumps(summary | {"kernels": []}))
    record = json.loads(directory.record_path.read_text()) | {"status": "interrupted"}
    directory.record_path.write_text(json.dumps(record))
    assert len(api.open(run).kernels)
