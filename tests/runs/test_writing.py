"""Writing into a run that someone else made: nothing outside of it is touched, nothing half done is left."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.runs.lock import RunLock
from harness.runs.store import RunDirectory
from harness.runs.writing import Damaged, overwrite, write_atomic

STORED = Path(__file__).parents[1] / "data" / "run"
VIEWS = ("summary.json", "tables.md", "tables.csv", "report.html", "plots/spread_k.png", "plots/spread_k.svg")


@pytest.fixture
def handed(tmp_path: Path) -> Path:
    """A run as it comes out of a tar file."""
    return Path(shutil.copytree(STORED, tmp_path / "run"))


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A file of the reader's own."""
    file = tmp_path / "mine" / "profile"
    file.parent.mkdir()
    file.write_text("mine")
    return file


@pytest.mark.parametrize("suffix", ["", ".tmp"])
def test_a_report_writes_through_no_link_in_a_run(handed: Path, mine: Path, suffix: str) -> None:
    (handed / "plots").mkdir()
    for name in VIEWS:
        (handed / (name + suffix)).symlink_to(mine)
    assert main(["report", str(handed)]) == 0
    assert mine.read_text() == "mine"
    assert all((handed / name).is_file() and not (handed / name).is_symlink() for name in VIEWS)


def test_a_report_writes_nothing_into_a_folder_that_a_run_links_to(
    handed: Path, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (handed / "plots").symlink_to(mine.parent)
    assert main(["report", str(handed)]) == 2
    assert "plots is a link" in capsys.readouterr().err
    assert os.listdir(mine.parent) == [mine.name]


def test_a_comparison_writes_through_no_link_in_its_folder(handed: Path, mine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "compared"
    folder.mkdir()
    for name in ("compare.csv", "compare.html.tmp"):
        (folder / name).symlink_to(mine)
    assert main(["compare", str(handed), str(STORED), "--output", str(folder)]) == 0
    assert mine.read_text() == "mine"


def test_a_run_that_the_user_names_through_a_link_is_written(handed: Path, tmp_path: Path) -> None:
    (tmp_path / "latest").symlink_to(handed)
    assert main(["report", str(tmp_path / "latest")]) == 0
    assert all((handed / name).is_file() for name in VIEWS)


def test_samples_are_not_appended_to_a_file_that_a_run_links_to(handed: Path, mine: Path) -> None:
    (handed / "clocks.jsonl").symlink_to(mine)
    with pytest.raises(OSError, match="clocks"):
        RunDirectory.open(handed).append_clocks({"series": "a"})
    assert mine.read_text() == "mine"


@pytest.mark.parametrize("name", ["run.json", "samples.jsonl", "clocks.jsonl"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_pipe_or_a_folder_in_place_of_a_file_is_refused_at_once(
    handed: Path, name: str, make: object
) -> None:
    (handed / name).unlink(missing_ok=True)
    (os.mkfifo if make is os.mkfifo else os.mkdir)(handed / name)
    run = RunDirectory(handed)
    with pytest.raises((Damaged, IsADirectoryError), match=name):
        run.append_clocks({}) if name == "clocks.jsonl" else (run.record(), run.results())


@pytest.mark.parametrize("folder", ["plots", "captures", "captures/rank-0"])
def test_a_run_in_whose_folder_a_link_leads_elsewhere_is_not_begun(
    handed: Path, mine: Path, folder: str
) -> None:
    (handed / folder).parent.mkdir(exist_ok=True)
    (handed / folder).symlink_to(mine.parent)
    before = sorted(handed.rglob("*"))
    with pytest.raises(Damaged, match=f"{folder} is a link"):
        RunDirectory.create(handed, overwrite=True)
    assert sorted(handed.rglob("*")) == before
    assert os.listdir(mine.parent) == [mine.name]


@pytest.mark.parametrize("name", ["samples.jsonl", "clocks.jsonl", "run.json"])
def test_nothing_is_written_through_a_hard_link(handed: Path, mine: Path, name: str) -> None:
    """As tar can make one to a file beside the run."""
    (handed / name).unlink(missing_ok=True)
    os.link(mine, handed / name)
    run = RunDirectory(handed)
    if name == "run.json":
        with pytest.raises(OSError, match="links"):
            overwrite(run.record_path, b"")
    else:
        with pytest.raises(Damaged, match=f"{name}: a hard link"):
            RunLock(run) if name == "samples.jsonl" else run.append_clocks({})
    assert mine.read_text() == "mine"


def test_a_temporary_file_of_another_name_is_the_user_s(tmp_path: Path) -> None:
    mine, left = tmp_path / ".tables.md.notes.tmp", tmp_path / f".tables.md.{'0' * 16}.tmp"
    for file in (mine, left):
        file.touch()
    write_atomic(tmp_path / "tables.md", "")
    assert (mine.exists(), left.exists()) == (True, False)


@pytest.mark.parametrize("fails", ["fsync", "replace"])
def test_what_cannot_be_written_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    file = tmp_path / "tables.md"
    write_atomic(file, "old")
    monkeypatch.setattr(os, fails, full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(file, b"new")
    assert (os.listdir(tmp_path), file.read_text()) == (["tables.md"], "old")
