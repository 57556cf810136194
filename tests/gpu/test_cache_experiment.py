"""The experiment `cache`: vLLM finds what is expected, and outputs agree."""

from __future__ import annotations

import pytest

from tests.gpu.jobs import LITTLE_MEMORY, harness, summary_of


@pytest.mark.parametrize("options", ["--length 1000 --shares 0,50,100", "--length 1 --shares 100"])
def test_hits_are_as_expected_and_the_output_is_right(options, tmp_path):
    small = ("--model", "gpt2", "--prompts", 2, "--repeats", 7, "--quiet", *LITTLE_MEMORY)
    harness("cache", *small, *options.split(), "--output-dir", tmp_path)
    cells = summary_of(tmp_path)["cells"]
    assert {row["status"] for row in cells} == {"ok"}, {row["reason"] for row in cells}
    for row in cells:
        assert row["hit_rate_pct"] == row["expected_rate_pct"], row
