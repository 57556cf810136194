"""Verdicts of one page hold together: on at least 95% of pages, no contrast is called slower or faster that
is neither.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.analysis import stats
from harness.runs.stored import Stored
from harness.runs.summary import Reason

CLAIMS = ("slower", "faster")


def judge_together(summary: Stored) -> None:
    """Make a summary's "slower" and "faster" "unclear" where they cannot be claimed beside all the others.

    By Holm's procedure over the p-values of all its rows; rows of single layers are a family of their own,
    and a sum over layers is the mean's contrast again.
    """
    page: list[Any] = []
    layers: list[Any] = []
    for _, _, row in rows_with(summary, "p_value", "verdict"):
        (layers if isinstance(getattr(row, "layer", None), int) else page).append(row)
    for family in (page, layers):
        tests = [row.p_value for row in family if getattr(row, "layer", None) != "sum"]
        level = stats.holm_level(tests)
        for row in family:
            row.holm_level = None if row.p_value is None else level
            if row.verdict in CLAIMS and (row.p_value is None or row.p_value > level):
                row.verdict, row.reason_code = "unclear", Reason.NOT_CLAIMABLE


def rows_with(stored: Stored, *fields: str) -> Iterator[tuple[str, Stored, Any]]:
    """Every row below that has these fields: where it is, e.g. "attribution.measured", its owner, and it."""
    for name in type(stored).model_fields:
        value = getattr(stored, name)
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, Stored):
                if type(each).model_fields.keys() >= set(fields):
                    yield name, stored, each
                else:
                    yield from ((f"{name}.{inner}", *row) for inner, *row in rows_with(each, *fields))
