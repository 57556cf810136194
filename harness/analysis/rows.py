"""Rows of figures, as summaries have them, and the one way to find them: by what identifies them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]


def select(rows: Iterable[Row], **keys: object) -> list[Row]:
    """The rows that have all of these values; a row that lacks a key has not."""
    return [row for row in rows if keys.items() <= row.items()]


def find(rows: Iterable[Row], **keys: object) -> Row | None:
    """The first of them; None if there is none."""
    return next((row for row in rows if keys.items() <= row.items()), None)
