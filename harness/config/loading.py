"""A configuration from a YAML file and a command line, or everything that is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from harness import batch
from harness.config import engine_options, former_options
from harness.config.errors import ConfigError, label
from harness.config.yaml_file import read_mapping
from harness.files import shorten

Model = TypeVar("Model", bound=BaseModel)
Options = Mapping[str, Any]

# Alternatives that exclude each other, each with its options.
EITHER_OR = ((("spread_k",), ("spread_min", "spread_max", "spread_step")), (("length",), ("batch",)))


def load(model: type[Model], options: Options, yaml_path: Path | None = None) -> Model:
    """The configuration from command-line `options` (field name -> value) over a YAML file's over defaults.

    Raises ConfigError with everything that is wrong, in one line.
    """
    from_yaml = _read_yaml(model, yaml_path) if yaml_path else {}
    options = _rename(model, options)
    for values, source in ((from_yaml, yaml_path), (options, None)):
        for ways in EITHER_OR:
            given = [[name for name in way if values.get(name) is not None] for way in ways]
            if all(given):
                both = (label(names[0], values[names[0]], source) for names in given)
                raise ConfigError(f"{' and '.join(both)}: exclude each other; leave one out")
    overruled: set[str] = set()
    for one, other in EITHER_OR:
        if any(name in options for name in one):
            overruled |= set(other)
        elif any(name in options for name in other):
            overruled |= set(one)
    merged = {name: value for name, value in from_yaml.items() if name not in overruled} | dict(options)
    if all(isinstance(each.get("engine_options"), dict) for each in (from_yaml, options)):
        merged["engine_options"] = from_yaml["engine_options"] | options["engine_options"]
    if isinstance(merged.get("batch"), str):
        merged |= _batch_and_longest(merged["batch"], None if "batch" in options else yaml_path)
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        source_of = {name: None if name in options else yaml_path for name in merged}
        raise ConfigError("; ".join(_describe_errors(model, error, merged, source_of))) from None


def value_types(model: type[BaseModel], name: str) -> list[Any]:
    """The types a field's value can have, less None: bool, int, float, str, Path, list[...] or a Literal."""
    return [*_plain_types(model.model_fields[name].annotation)]


def item_type(kind: Any) -> Any:
    """The type of a list's items: int, float or str."""
    return next(iter(_plain_types(get_args(kind)[0])))


def expects(model: type[BaseModel], name: str) -> str:
    """What a field's value must be: text that follows "must be"."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    words[dict] = "options with their values, e.g. {kv_cache_dtype: fp8}"
    lists = {
        int: "a list of whole numbers, e.g. 1,4,16 (in YAML [1, 4, 16])",
        float: "a list of numbers, e.g. 0.5,1 (in YAML [0.5, 1])",
        str: "a list of names, e.g. A,B (in YAML [A, B])",
    }
    parts = []
    for kind in value_types(model, name):
        if get_origin(kind) is Literal:
            choices = [str(choice) for choice in get_args(kind)]
            parts.append(", ".join(choices[:-1]) + f" or {choices[-1]}")
        else:
            is_list = get_origin(kind) is list
            parts.append(lists[item_type(kind)] if is_list else words[get_origin(kind) or kind])
    return ", or ".join(parts)


def _plain_types(annotation: Any) -> Iterable[Any]:
    if get_origin(annotation) is Annotated:
        yield from _plain_types(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from _plain_types(member)
    elif annotation is not NoneType:
        yield annotation


def _batch_and_longest(text: str, source: Path | None) -> dict[str, Any]:
    """The batch, read from its file if it names one, and the length of its longest prompt."""
    try:
        requests = batch.parse_or_read(text)
    except batch.BatchError as error:
        raise ConfigError(f"{label('batch', text, source)}: {error}") from None
    return {"batch": batch.format_batch(requests), "length": max(request.length for request in requests)}


def _rename(model: type[BaseModel], options: Options) -> dict[str, Any]:
    """The options under their fields' names."""
    return {former_options.field_of(name, model.model_fields): value for name, value in options.items()}


def _read_yaml(model: type[BaseModel], path: Path) -> dict[str, Any]:
    values = _rename(model, read_mapping(path, f"--config {path}"))
    for key in values:
        if key not in model.model_fields:
            hint = engine_options.suggestion(key, model.model_fields)
            raise ConfigError(f"{path}: {shorten(str(key), 40)}: unknown key; {hint}")
    return values


def _describe_errors(
    model: type[BaseModel],
    error: ValidationError,
    values: Options,
    source_of: Mapping[str, Path | None],
) -> Iterable[str]:
    """One problem for each invalid field; of a union's several errors, the one about a limit."""
    limits = {"greater_than_equal": "at least", "greater_than": "more than", "less_than_equal": "at most"}
    must_be: dict[str, str] = {}
    for item in error.errors():
        name = str(item["loc"][0])
        if item["type"] in limits:
            must_be[name] = f"{limits[item['type']]} {next(iter(item['ctx'].values()))}"
        elif item["type"] == "value_error":
            must_be[name] = str(item["ctx"]["error"])
        short = item["type"] == "too_short"
        must_be.setdefault(
            name, expects(model, name) + (f", at least {item['ctx']['min_length']} of them" if short else "")
        )
    for name, limit in must_be.items():
        yield f"{label(name, values[name], source_of[name])}: must be {limit}"
