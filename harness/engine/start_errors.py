"""Why vLLM does not start, in one line: what, why, and the way out."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import patches
from harness import device
from harness.config import engine_options
from harness.config.engine import EngineSpec
from harness.engine import packages
from harness.engine.options import EngineError
from harness.models import ModelSource
from harness.running.error_log import LOG
from harness.runs.record import Status, status_of
from harness.units import type_and_line

LONGEST = 300  # characters of vLLM's own words
# vLLM's errors that only say that there was another.
_WRAPPERS = re.compile(
    "initialization failed|see (root cause|stack trace)|check the logs|failed to be inspected", re.IGNORECASE
)
_AN_ERROR = re.compile(r"^(?:\S+ )*?((?:\w+\.)*\w*(?:Error|Exception|Interrupt)\w*: .+)$", re.MULTILINE)
# How pydantic puts what is wrong below a heading.
_INVALID = re.compile(
    r"^\d+ validation errors? for \w+\n(?:(?P<field>\S+)\n)? +(?P<problem>.+)", re.MULTILINE
)


@dataclass(frozen=True)
class Kind:
    """A reason that vLLM gives, and what to say of it.

    `says` may name groups of the pattern, the facts of `_facts`, and {line}: vLLM's line from the match on.
    """

    pattern: str
    says: str
    status: Status = Status.UNSUPPORTED
    quantised: bool = False  # only said of quantised weights


KINDS = (
    Kind(
        r"trust_remote_code=True|contains custom code which must be executed",
        "its repository runs code of its own; read that code, then add --trust-remote-code",
    ),
    Kind(
        r"No module named 'torchvision'|requires the Torchvision library",
        "vLLM's class for it, {architecture}, imports torchvision, which is not installed; {torchvision}",
    ),
    Kind(
        r"operator torchvision::nms does not exist",
        "the installed torchvision is not built for this PyTorch; {torchvision}",
    ),
    Kind(
        r"model type `(?P<type>[^`]+)` but Transformers does not recognize",
        "transformers {transformers} does not know its model type, {type}; install one that does{required}",
    ),
    Kind(
        r"cannot import name '(?P<lacks>\w+)' from '(?P<module>transformers[\w.]*)'",
        "transformers {transformers} has no {module}.{lacks}; install one that has it{required}",
    ),
    Kind(
        r"No module named '(?P<module>[\w.]+)'",
        "it needs the package {module}, which is not installed; install it",
    ),
    Kind(
        r"Model architectures (?P<which>\[[^\]]*\]) (are not supported|has no vLLM|have no vLLM)",
        "{vllm} has no model class {which}; choose another model, or a vLLM that has it",
    ),
    Kind(
        r"Model architecture .* was supported in vLLM until .* not supported anymore",
        "{line}; choose another model",
    ),
    Kind(
        r"Free memory on device.*is less than desired",
        "{line}; lower --gpu-memory-utilization, or wait until others free the GPU",
        Status.OUT_OF_MEMORY,
    ),
    Kind(
        r"No available memory for the cache blocks",
        "its weights leave no room for the KV cache; raise --gpu-memory-utilization, or take a smaller model",
        Status.OUT_OF_MEMORY,
    ),
    Kind(
        r"To serve at least one request",
        "{line}; raise --gpu-memory-utilization, or take shorter prompts",
        Status.OUT_OF_MEMORY,
    ),
    Kind(
        r"Available memory on node",
        "{line}; take fewer or shorter prompts, a smaller model, or a smaller VLLM_CPU_KVCACHE_SPACE if you "
        "set it",
        Status.OUT_OF_MEMORY,
    ),
    Kind(
        r"(?i)(\w+ )*out of memory|can.?not allocate memory|can't allocate memory",
        "{line}; choose a smaller model, a --dtype of fewer bytes, or more GPUs (--tensor-parallel-size)",
        Status.OUT_OF_MEMORY,
    ),
    Kind(
        r"max_model_len \((?P<asked>\d+)\) is greater than the derived",
        "it has fewer than the {asked} positions that the prompts need; take shorter ones, or "
        "--allow-long-max-model-len",
    ),
    Kind(
        r"There is no module or parameter named '(?P<lacks>[^']+)' in (?P<class>\w+)",
        "its weights are not those of vLLM's {class}, which has no {lacks}; check the architectures in its "
        "config.json",
    ),
    Kind(
        r"SafetensorError: .*|Error while deserializing header.*",
        "its weights cannot be read ({line}); copy or download them again",
        Status.ERROR,
    ),
    Kind(
        r"[^\n]*((?i:quant)|Failed to find a kernel that can implement)",
        "its quantisation ({quantisation}) does not run {here} ({line}); choose another",
        quantised=True,
    ),
)


@contextmanager
def explaining(spec: EngineSpec, source: ModelSource, logged: Callable[[], str]) -> Iterator[None]:
    """Raise an EngineError of one line for any exception inside the block, except the harness's own.

    Args:
        logged: what vLLM has logged as errors so far; it goes to the run's errors.txt.
    """
    try:
        yield
    except (EngineError, patches.PatchError):
        raise
    except Exception as error:
        log = logged()
        if log:
            LOG.error("vLLM's log:\n%s", log)
        raise explain(error, log, spec, source) from error


def explain(error: Exception, log: str, spec: EngineSpec, source: ModelSource) -> EngineError:
    """The error to raise in place of `error`, which ended an engine's start.

    Args:
        log: what vLLM logged as errors meanwhile.
    """
    asked = engine_options.format_options(spec.engine_options)
    where = f"vLLM cannot start {source.name}{f' with {asked}' if asked else ''}"
    facts = _facts(spec, source)
    kinds = [kind for kind in KINDS if facts["quantisation"] or not kind.quantised]
    for text in _texts(error, log):
        for kind in kinds:
            if match := re.search(kind.pattern, text):
                words = facts | match.groupdict() | {"line": _sentence(text[match.start() :])}
                return EngineError(f"{where}: {kind.says.format_map(words)}", kind.status)
    status, _ = status_of(error)
    return EngineError(f"{where}: {_root_line(error, log)}; errors.txt of the run has all of it", status)


def _texts(error: BaseException | None, log: str) -> Iterator[str]:
    """What may say why, the most telling first: the error, those that it came from, and the log's errors."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        known = isinstance(error, (ValueError, RuntimeError, NotImplementedError))
        text = re.sub(r" \[type=.*", "", str(error) if known else type_and_line(error))  # pydantic's input
        if not _WRAPPERS.search(text):
            yield from _errors_in(text)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if log:
        yield from reversed(_AN_ERROR.findall(log))


def _errors_in(text: str) -> list[str]:
    """The text, or of a text with tracebacks the lines that end them, the last first."""
    ends = _AN_ERROR.findall(text) if "Traceback (most recent call last)" in text else []
    return ends[::-1] or [text]


def _root_line(error: Exception, log: str) -> str:
    """vLLM's line that says what is wrong; pydantic puts it below a heading."""
    text = next(_texts(error, log), "a process of vLLM's ended and did not say why")
    if invalid := _INVALID.search(text):
        text = f"{invalid['field']}: {invalid['problem']}" if invalid["field"] else invalid["problem"]
    return _shorten(text)


def _sentence(text: str) -> str:
    """The first sentence of a text."""
    return _shorten(re.split(r"\. (?=[A-Z])", text, maxsplit=1)[0])


def _shorten(text: str) -> str:
    """The first line with words, of at most LONGEST characters."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "no reason given")
    line = line.removeprefix("Value error, ").rstrip(".: ")
    return line if len(line) <= LONGEST else f"{line[:LONGEST].rsplit(' ', 1)[0]} ..."


def _facts(spec: EngineSpec, source: ModelSource) -> dict[str, str]:
    """What the lines may name."""
    inner = source.config.get("text_config") or {}
    quantised = source.config.get("quantization_config") or inner.get("quantization_config")
    method = quantised.get("quant_method", "unnamed") if isinstance(quantised, dict) else ""
    return {
        "architecture": ", ".join(source.config.get("architectures") or ["unnamed"]),
        "transformers": device.versions()["transformers"] or "unknown",
        "required": packages.describe_requirement("transformers"),
        "vllm": patches.installed_vllm() or "this vllm",
        "torchvision": packages.install_torchvision(device.kind()),
        "quantisation": str(spec.engine_options.get("quantization") or method),
        "here": "on a CPU" if device.kind() == "cpu" else "on this GPU",
    }
