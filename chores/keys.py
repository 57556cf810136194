"""Tables of the keys of run.json and summary.json, made from their schemas for docs/run-directory.md."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from typing import Annotated, Any, Union, get_args, get_origin

from harness.experiments import EXPERIMENTS
from harness.experiments.views import view_of
from harness.runs.schema import RunRecord
from harness.runs.stored import Stored
from harness.runs.summary import Reason

HEAD = ["| key | |", "| --- | --- |"]


def record_keys() -> str:
    """The table of run.json."""
    return "\n".join([*HEAD, *_rows(RunRecord)])


def summary_keys() -> str:
    """A section for each experiment's summary.json."""
    parts = []
    for name, experiment in EXPERIMENTS.items():
        summary = view_of(experiment).Summary
        whose = "the main job" if name == "prefill" else f"`{name}`"
        lists = {key: kind for key, kind in _parts(summary) if kind}
        alone = [row for row in _rows(summary) if row.split("`")[1] not in lists]
        parts += [f"### Of {whose}", "\n".join([*HEAD, *alone])]
        for key, kind in lists.items():
            parts += [f"**`{key}`**: {_about(kind)}", "\n".join([*HEAD, *_rows(kind)])]
    return "\n\n".join([*parts, "### Reason codes", _reasons()])


def _reasons() -> str:
    """The table of what a verdict's `reason_code` may be."""
    return "\n".join(
        ["| `reason_code` | |", "| --- | --- |", *(f"| `{code}` | {code.about} |" for code in Reason)]
    )


def _parts(model: type[Stored]) -> Iterator[tuple[str, type[Stored] | None]]:
    for key, field in model.model_fields.items():
        yield key, _model_in(field.annotation)


def _rows(model: type[Stored]) -> list[str]:
    """A row for each key; an object's keys, also of those in a list, are in the first row that has one."""
    rows: list[str] = []
    first: dict[type[Stored], str] = {}
    for key, kind in _parts(model):
        told = model.model_fields[key].description or (_about(kind)[:-1] if kind else "")
        if kind in first:
            told += f"; keys as of `{first[kind]}`"
        elif kind is not None:
            first[kind] = key
            inner = (
                f"`{name}`" + (f" ({field.description})" if field.description else "")
                for name, field in kind.model_fields.items()
            )
            told += f": {', '.join(inner)}"
        rows.append(f"| `{key}` | {_small(told)} |")
    return rows


def _small(text: str) -> str:
    """The text without an initial capital, unless the word has several or stands alone."""
    return text[:1].lower() + text[1:] if text[1:2].islower() else text


def _about(model: type[Stored]) -> str:
    """Its docstring as one line."""
    return " ".join((inspect.getdoc(model) or "").split())


def _model_in(annotation: Any) -> type[Stored] | None:
    """The schema of an object, or of those in a list or a mapping; None of anything else."""
    if inspect.isclass(annotation) and issubclass(annotation, Stored):
        return annotation
    if get_origin(annotation) in (list, dict, Union, types.UnionType, Annotated):
        return next(filter(None, map(_model_in, get_args(annotation))), None)
    return None
