"""vLLM's own engine options, passed through under their own names: which, and what they are as text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from harness import files
from harness.config import vllm_names
from harness.config.engine import EngineSpec
from harness.config.errors import ConfigError, nearest

_SIZED = "the KV cache is sized for the prompts; --gpu-memory-utilization changes what it may take of a GPU"
_IDS = "prompts reach vLLM as token ids, so it loads no tokenizer"
_FILES = "the harness finds the model's files itself; name them with --model and --revision"
_RANKS = "ranks share a model by --tensor-parallel-size alone"
_ONE_STEP = "prompts stay whole, in one step"
_ONE_BY_ONE = "tokens are generated one by one, without speculation"
_NO_TRANSFER = "KV transfer is not measured yet"
_POOLING = "python -m harness workload measures pooling, by --task"
# Options that the harness sets or cannot measure with, and why. Some have values that change nothing.
REFUSED: dict[str, str] = {
    "max_model_len": "it follows from the prompts' lengths",
    "max_num_seqs": "it follows from the number of prompts",
    "enable_prefix_caching": "every token is prefilled; the experiment cache measures a prefix cache",
    "disable_hybrid_kv_cache_manager": "layers share a block table where they can, whose blocks are chosen",
    "async_scheduling": "steps are timed one by one",
    "generation_config": "tokens are sampled greedily",
    "override_generation_config": "tokens are sampled greedily",
    "worker_extension_cls": "the harness reaches the ranks through it",
    "disable_log_stats": "the harness prints its own figures",
    "use_tqdm_on_load": "the harness shows its own progress",
    "runner": _POOLING,
    "convert": _POOLING,
    "pooler_config": _POOLING,
    "num_gpu_blocks_override": _SIZED,
    **dict.fromkeys(("skip_tokenizer_init", "tokenizer", "tokenizer_mode", "tokenizer_revision"), _IDS),
    **dict.fromkeys(
        ("code_revision", "hf_config_path", "hf_token", "download_dir", "model_weights"), _FILES
    ),
    **dict.fromkeys(
        ("pipeline_parallel_size", "data_parallel_size", "data_parallel_rank", "data_parallel_size_local",
         "prefill_context_parallel_size", "decode_context_parallel_size", "nnodes", "enable_dbo"),
        _RANKS,
    ),
    **dict.fromkeys(("long_prefill_token_threshold", "max_num_scheduled_tokens"), _ONE_STEP),
    **dict.fromkeys(
        ("speculative_config", "spec_method", "spec_model", "spec_tokens", "diffusion_config"), _ONE_BY_ONE
    ),
    **dict.fromkeys(("kv_transfer_config", "kv_events_config", "ec_transfer_config"), _NO_TRANSFER),
}  # fmt: skip
SAME = {"runner": "generate", "convert": "none"}  # what these are anyway
SPEC = {field.name for field in fields(EngineSpec)}


def problems(options: Mapping[str, Any], own: Iterable[str]) -> Iterator[str]:
    """Options that vLLM does not have, that the harness sets itself, or whose value vLLM does not take.

    Args:
        own: names of the experiment's own options.
    """
    known = vllm_names.engine_args()
    for name, value in options.items():
        asked = format_options({name: value})
        if name in own:
            yield f"engine_options: {name}: is an option of the harness's own; give it as --{_dashed(name)}"
        elif name in REFUSED and not (name in SAME and value == SAME[name]):
            yield f"{asked}: {REFUSED[name]}; leave it out"
        elif name in SPEC - REFUSED.keys():
            yield f"{asked}: this experiment sets it itself; leave it out"
        elif known and name not in known:
            yield f"engine_options: {name}: vLLM has no such engine option; {nearest(name, known)}"
        elif known and (choices := vllm_names.engine_arg_choices(name)) and value not in choices:
            yield f"{asked}: must be {', '.join(map(str, choices[:-1]))} or {choices[-1]}"
        elif name == "hf_overrides" and not isinstance(value, dict):
            yield f"{asked}: must be a JSON object with keys of config.json"


def suggestion(name: object, own: Iterable[str]) -> str:
    """What to take in place of a name that is none of an experiment's own options."""
    if "engine_options" in own and name in vllm_names.engine_args():
        return "vLLM's own options belong in engine_options"
    return nearest(str(name)[:100], own)


def problems_beside_transformers(options: Mapping[str, Any]) -> Iterator[str]:
    """Options under which vLLM would not compute what transformers does."""
    for name in ("kv_cache_dtype", "quantization", "quantization_config"):
        if name in options:
            asked = format_options({name: options[name]})
            yield f"{asked}: it changes vLLM alone, which is compared with transformers here; leave it out"


def notices(options: Mapping[str, Any]) -> Iterator[str]:
    """What to tell every reader of a run with these options."""
    if options:
        yield f"vLLM runs with engine options of its own: {format_options(options)}"
    if options.get("enable_lora"):
        yield "LoRA is enabled in vLLM, but no prompt uses an adapter"


def format_options(options: Mapping[str, Any]) -> str:
    """As typed on a command line, for messages: --kv-cache-dtype fp8 --no-enable-lora."""
    return " ".join(word for option in options.items() for word in words(*option))


def words(name: str, value: Any) -> list[str]:
    """An option's words on a command line; the inverse of `parse`."""
    if isinstance(value, bool):
        return [f"--{'' if value else 'no-'}{_dashed(name)}"]
    if isinstance(value, list):
        return [f"--{_dashed(name)}", *map(str, value)]
    return [f"--{_dashed(name)}", json.dumps(value) if isinstance(value, dict) else str(value)]


def parse(arguments: Sequence[str], own: Sequence[str]) -> dict[str, Any]:
    """vLLM's options among a command line's words, as vLLM parses them.

    Args:
        arguments: --name VALUE, --name=VALUE, --name or --no-name for switches, --name A B for lists;
            --name.key VALUE for one key of a JSON object.
        own: the harness's own options, with their dashes, for suggestions.

    Raises:
        ConfigError: a word is no option of vLLM's, or its value is missing or cannot be read.
    """
    options: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        name, key, switched_on = _split(option, own)
        values = [value] if equals else []
        while rest and not equals and not _is_option(rest[0]):
            values.append(rest.pop(0))
        annotation = vllm_names.engine_args()[name]
        if not switched_on and (_takes(annotation, "str") or not _takes(annotation, "bool")):
            raise ConfigError(f"{option}: --{_dashed(name)} is no switch; give it a value, or leave it out")
        if key:
            if not isinstance(options.get(name, {}), dict):
                was = f"--{_dashed(name)} {options[name]}"
                raise ConfigError(f"{option}: {was} was given as well; leave one out")
            _set(options.setdefault(name, {}), key, _from_json(_single(option, values)))
        elif _takes(annotation, "bool") and not _takes(annotation, "str"):
            if values:
                raise ConfigError(f"{option} {values[0]}: is a switch; give it without a value")
            options[name] = switched_on
        elif _takes(annotation, "list", "set") and not (values and values[0][:1] in "[{"):
            each = values or [_single(option, values)]
            options[name] = [_from_json(value) for value in each] if _takes(annotation, "int") else each
        else:
            text = _single(option, values)
            named = {str(choice): choice for choice in vllm_names.engine_arg_choices(name)}
            options[name] = named[text] if text in named else _from_text(option, annotation, text)
    return options


def _split(option: str, own: Sequence[str]) -> tuple[str, list[str], bool]:
    """An option's field, the keys below it, and False for --no-.... Raises ConfigError if there is none."""
    name, *key = option.removeprefix("--").split(".")
    known = vllm_names.engine_args()
    field = name.replace("-", "_")
    if option.startswith("--") and "_" not in name and field not in SPEC - REFUSED.keys() | {"model"}:
        if field in known:
            return field, [part.replace("-", "_") for part in key], True
        if (field := field.removeprefix("no_")) in known and not key:
            return field, [], False
    passed_on = [f"--{_dashed(each)}" for each in known if each not in SPEC | REFUSED.keys()]
    hint = nearest(option, [*passed_on, *own]) if option.startswith("-") else "options begin with --"
    raise ConfigError(f"{option}: unknown argument; {hint}")


def _is_option(word: str) -> bool:
    return word.startswith("-") and not re.fullmatch(r"-\d+(\.\d*)?", word)


def _single(option: str, values: Sequence[str]) -> str:
    if not values:
        raise ConfigError(f"{option}: expected a value, as in vLLM; --help lists the harness's own options")
    if len(values) > 1:
        raise ConfigError(f"{values[1]}: unknown argument; options begin with --")
    return values[0]


def _from_text(option: str, annotation: str, text: str) -> Any:
    if text == "None":
        return None
    for kind, convert, what in (("int", int, "a whole number"), ("float", float, "a number")):
        if _takes(annotation, kind) and not _takes(annotation, "str"):
            try:
                return _sized(text) if kind == "int" else convert(text)
            except (ValueError, OverflowError):
                raise ConfigError(f"{option} {text}: must be {what}") from None
    if text[:1] in "[{" or re.search(r"dict\b|\w(Config|Args)\b|HfOverrides", annotation):
        value = _from_json(text)
        if isinstance(value, str) and not _takes(annotation, "str"):
            raise ConfigError(f"""{option} {text}: must be JSON, e.g. '{{"key": 1}}'""")
        return value
    return text


def _sized(text: str) -> int:
    """A whole number as vLLM reads it: 4k is 4000, 4K is 4096, up to t and T; raises ValueError."""
    if text[-1:] in "kmgt" and text[:-1]:
        return int(float(text[:-1]) * 1000 ** (1 + "kmgt".index(text[-1])))
    if text[-1:] in "KMGT" and text[:-1]:
        return int(text[:-1]) * int(1024 ** (1 + "KMGT".index(text[-1])))
    return int(text)


def _from_json(text: str) -> Any:
    """The value of JSON text; other text is a string."""
    try:
        return files.parse_json(text, finite=False)
    except ValueError:
        return text


def _takes(annotation: str, *kinds: str) -> bool:
    return re.search(rf"\b({'|'.join(kinds)})\b", re.sub(r"dict\[.*\]", "dict", annotation)) is not None


def _set(options: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    *outer, last = keys
    for key in outer:
        options = options.setdefault(key, {})
    options[last] = value


def _dashed(name: str) -> str:
    return name.replace("_", "-")
