"""The base of all stored data: types of values, versions, and errors of one line. Numbers are finite."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from harness import files

_PROBLEMS = {  # by pydantic's type of error
    "missing": "is missing",
    "extra_forbidden": "is not a key of this file",
    "unexpected_keyword_argument": "is not a key of this file",
}
LARGEST = 2**63 - 1  # whole number, which NumPy and pandas can take

Count = Annotated[int, Field(ge=0, le=LARGEST)]
Amount = Annotated[float, Field(ge=0)]
Interval = Annotated[
    tuple[float, float],
    BeforeValidator(lambda bounds: tuple(bounds) if isinstance(bounds, list) else bounds),
]
RunStatus = Literal["running", "finished", "interrupted", "failed"]

S = TypeVar("S", bound="Stored")


class TooNew(ValueError):
    """A file that a later version of this project wrote."""


class Stored(BaseModel):
    """Base of stored data: no other keys, no conversion, no NaN; assignments are checked, too."""

    model_config = ConfigDict(
        strict=True, extra="forbid", allow_inf_nan=False, validate_assignment=True, protected_namespaces=()
    )

    @classmethod
    def check(cls: type[S], data: object) -> S:
        """The data as this; raises ValueError, in one line, on anything else."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ValueError(first_problem(error)) from None

    def to_json(self) -> dict[str, Any]:
        """A JSON object of the fields that were set."""
        return self.model_dump(mode="json", exclude_unset=True)

    def to_text(self) -> str:
        """The same as a file of JSON, in a tenth of the time that `write_json` takes for it."""
        return self.model_dump_json(indent=1, exclude_unset=True) + "\n"


def require_readable(data: object, newest: int) -> int:
    """The schema version of a file's content; raises TooNew, or ValueError without a valid one, in one
    line.
    """
    if not isinstance(data, dict) or "status" not in data:
        raise ValueError("it has no status")
    version = data.get("schema_version", 1)
    if type(version) is not int or version < 1:
        raise ValueError("schema_version: must be a number from 1 on")
    if version > newest:
        raise TooNew(
            f"schema_version {str(version)[:20]}: written by a newer version; this one reads up to "
            f"{newest}: update it"
        )
    _require_text(data)
    return version


def first_problem(error: ValidationError) -> str:
    """The first problem, in one line: the key, and what it must be."""
    problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
    key = ".".join(map(str, problem["loc"]))
    message = _PROBLEMS.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    return files.shorten(f"{key}: {message}" if key else message)


def _require_text(data: object) -> None:
    """Raise ValueError if the data could not be written again: half a character, or too deep nesting."""
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a character (a lone surrogate)") from None
    except RecursionError:
        raise ValueError("nested too deeply") from None
