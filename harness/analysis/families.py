"""Verdicts of one page hold together: of all its contrasts, in 95% of pages none is called slower or faster
that is neither.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import Any

from harness.analysis import stats
from harness.runs.schema import Stored

CLAIMS = ("slower", "faster")


def judge_together(summary: Stored) -> None:
    """Make a summary's "slower" and "faster" "unclear" where they cannot be claimed beside all the others.

    By Holm's procedure over the p-values of all its rows; rows of single layers are a family of their own,
    and a sum over layers is the mean's contrast again.
    """
    page: list[Any] = []
    layers: list[Any] = []
    for row in rows_with(summary, {"p_value", "verdict"}):
        (layers if isinstance(getattr(row, "layer", None), int) else page).append(row)
    for family in (page, layers):
        tests = [row.p_value for row in family if getattr(row, "layer", None) != "sum"]
        level = stats.claimable(tests)
        for row in family:
            if row.verdict in CLAIMS and (row.p_value is None or row.p_value > level):
                row.verdict = "unclear"


def rows_with(stored: Stored, fields: Set[str]) -> Iterator[Any]:
    """Every row below that has these fields."""
    for name in type(stored).model_fields:
        value = getattr(stored, name)
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Stored):
                if fields <= type(each).model_fields.keys():
                    yield each
                else:
                    yield from rows_with(each, fields)
