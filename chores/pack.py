"""python -m chores.pack RUN_OR_SWEEP ...: the finished runs below each directory, an archive in docs/runs.

An archive is named like its directory and has a folder for each run, with run.json and samples.jsonl, from
which all figures are made anew. Which runs are processes of one point, their configurations say.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from harness.runs.record import Result
from harness.runs.schema import RunRecord
from harness.runs.store import RunDirectory
from harness.runs.writing import write_atomic

RUNS = Path(__file__).resolve().parents[1] / "docs" / "runs"
KEPT = ("run.json", "samples.jsonl")
LARGEST_BYTES = 150 * 1024  # of an archive, for each of its runs


class PackError(ValueError):
    """One line that names the run and what is wrong."""


def objection(record: RunRecord) -> str | None:
    """Why a run may not be published; None if it may."""
    commit = record.versions.get("commit")
    if record.status != "finished":
        return f"its status is {record.status}; finish it with --resume"
    if not commit or "-dirty" in commit:
        return f"measured on commit {commit or 'unknown'}; measure again on a clean checkout"
    return None


def pack(path: Path, folder: Path) -> Path:
    """Write the archive of a run's or a sweep's directory into a folder; the same runs give the same bytes.

    Raises PackError, before anything is written, if there is no run, one may not be published, or they are
    too large for the repository.
    """
    runs = {file.parent: RunDirectory(file.parent).record() for file in sorted(path.rglob("run.json"))}
    if not runs:
        raise PackError(f"{path}: holds no run.json; name a run's directory, or a sweep's")
    for run, record in runs.items():
        if reason := objection(record):
            raise PackError(f"{run}: {reason}")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz", preset=9) as content:
        for file in (run / name for run in runs for name in KEPT):
            member = tarfile.TarInfo(str(file.relative_to(path)))
            member.size = file.stat().st_size
            content.addfile(member, io.BytesIO(file.read_bytes()))
    if len(packed.getvalue()) > LARGEST_BYTES * len(runs):
        size = len(packed.getvalue()) // len(runs)
        raise PackError(f"{path}: {size} bytes a run, {LARGEST_BYTES} allowed; measure for fewer seconds")
    archive = folder / f"{path.resolve().name}.tar.xz"
    write_atomic(archive, packed.getvalue())
    return archive


def read(archive: Path) -> Iterator[tuple[RunRecord, list[Result]]]:
    """The runs of an archive, in the order of their folders; one run may lie without a folder."""
    with tarfile.open(archive) as content:
        members = {PurePosixPath(member.name): member for member in content if member.isfile()}
        for path in sorted(path for path in members if path.name == "run.json"):
            record, samples = (content.extractfile(members[path.with_name(name)]) for name in KEPT)
            assert record is not None
            assert samples is not None
            yield RunRecord.parse(json.load(record)), [Result.parse(line) for line in samples]


def main() -> int:
    """Exit status: 0, or 2 with one line about the directory that was not packed."""
    parser = argparse.ArgumentParser(prog="python -m chores.pack", description=__doc__)
    parser.add_argument("paths", type=Path, nargs="+", metavar="RUN_OR_SWEEP")
    parser.add_argument("--output", type=Path, default=RUNS, metavar="DIR", help="default: docs/runs")
    options = parser.parse_args()
    try:
        for path in options.paths:
            archive = pack(path, options.output)
            print(f"{archive}: {archive.stat().st_size / 1024:.0f} KiB")
    except (ValueError, OSError) as error:
        print(f"python -m chores.pack: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
