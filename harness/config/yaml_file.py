"""A YAML file's mapping, read with bounds: it may be anyone's, and small files can mean huge values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from harness import files
from harness.config.errors import ConfigError
from harness.shipped import configs
from harness.units import MIB

MOST_BYTES = MIB // 4  # the largest shipped has 3 KiB
PREFIX = "tag:yaml.org,2002:"
TAGS = {PREFIX + name for name in ("str", "int", "float", "bool", "null", "merge", "seq", "map")}
MOST_VALUES = 20_000  # with those that aliases repeat


def read_mapping(path: Path, named: str) -> dict[str, Any]:
    """A YAML file's mapping, {} if it is empty.

    Raises ConfigError, in one line that calls the file `named`: it cannot be read, is not YAML, has a key
    twice, or holds more than its bounds.
    """
    try:
        values = _parse(files.read_text(path, MOST_BYTES))
    except OSError as error:
        raise ConfigError(f"{named}: {error.strerror}; {configs()} holds examples") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(f"{named}: not YAML: {line}{files.shorten(str(error.problem))}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{named}: not YAML: {files.shorten(' '.join(str(error).split()))}") from None
    except ValueError as error:
        raise ConfigError(f"{named}: {files.shorten(str(error))}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{named}: must hold lines like 'length: 4096'; {configs()} holds examples")
    return values


def _parse(text: str) -> Any:
    """What YAML text holds; raises YAMLError, or ValueError with the line."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _count(node, {}, 0)
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError):
        raise
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except Exception as error:  # PyYAML's constructors expect that a value fits a tag like !!bool
        raise ValueError(f"not YAML: {type(error).__name__}") from None
    finally:
        loader.dispose()


def _count(node: yaml.Node, counted: dict[int, int], depth: int) -> int:
    """The values that a node stands for, its aliases written out; raises ValueError beyond the bounds.

    Args:
        counted: by the id of a node met before, its count; 0 while it is being counted.
    """
    line = f"line {node.start_mark.line + 1}"
    if depth > files.DEEPEST:
        raise ValueError(f"{line}: nested too deeply")
    if node.tag not in TAGS:  # e.g. a date, which neither an option nor JSON can be
        tag = files.shorten(node.tag.removeprefix(PREFIX), 40)
        raise ValueError(f"{line}: not YAML that is read here: a {tag}; put text in quotes")
    if (before := counted.get(id(node))) is not None:
        if before == 0:
            raise ValueError(f"{line}: an alias inside the value that it stands for")
        return before
    counted[id(node)] = 0
    count = 1 + sum(_count(inner, counted, depth + 1) for inner in _inner(node, line))
    if count > MOST_VALUES:
        raise ValueError(f"{line}: more than {MOST_VALUES} values; take fewer, and no aliases of aliases")
    counted[id(node)] = count
    return count


def _inner(node: yaml.Node, line: str) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.ScalarNode):
        try:
            node.value.encode()
        except UnicodeEncodeError:
            raise ValueError(f"{line}: half a character (a lone surrogate)") from None
    elif isinstance(node, yaml.MappingNode):
        names: set[str] = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in names:
                    place = f"line {key.start_mark.line + 1}: {files.shorten(key.value, 40)}"
                    raise ValueError(f"{place}: is there twice; leave one out")
                names.add(key.value)
            yield from (key, value)
    else:
        yield from node.value
