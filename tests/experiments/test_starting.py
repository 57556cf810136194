"""What a run is given as it starts: a directory of its own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.experiments.starting import claim


def test_runs_that_start_in_one_second_have_a_directory_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        claimed = list(threads.map(claim, [tmp_path / "runs" / "20260102-030405-gpt2"] * 8))
    assert sorted(path.name for path in claimed)[:2] == ["20260102-030405-gpt2", "20260102-030405-gpt2-2"]
    assert len(set(claimed)) == 8
    assert all(path.is_dir() for path in claimed)
