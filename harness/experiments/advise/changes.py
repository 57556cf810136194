"""The changes that `advise` tries: their names, and vLLM's arguments for one of them or several."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness import units
from harness.config import engine_options
from harness.config.errors import ConfigError, label, nearest
from harness.plugin.startup import has_full_graphs
from harness.runs.schema import EngineSettings

STOCK, AGAIN = "stock", "stock again"
KNOBS = (
    "graphs", "full-graphs", "plugin-step", "plugin-nocache", "prefix-caching", "tokens", "async",
    "flash-attn", "block-size",
)  # fmt: skip
FROZEN = {"full-graphs", "plugin-step"}  # such a graph would keep for good whether a step uses the cache
SIZED = ("tokens", "flash-attn", "block-size")  # that take a value
BLOCK_SIZES = (64, 128)
FLASH_ATTN_VERSIONS = (2, 3)
MOST_GRAPHS = 24  # each takes about 0.1 s and some memory to capture
ROUND_TO = 8  # tokens of a graph
ALLOW_LONG = "VLLM_ALLOW_LONG_MAX_MODEL_LEN"
Arguments = dict[str, Any]  # vLLM's, by name


@dataclass(frozen=True)
class Change:
    """One thing that a candidate does otherwise than stock."""

    knob: str
    value: int | None = None  # None: the only one there is, or every usual one

    @property
    def name(self) -> str:
        """As --candidates has it, e.g. "block-size=64"."""
        return self.knob if self.value is None else f"{self.knob}={self.value}"

    @property
    def kind(self) -> str:
        """What only one change of a candidate can have."""
        if self.knob == "full-graphs":
            return "graphs"
        return self.knob.partition("-")[0] if self.plugin else self.knob

    @property
    def plugin(self) -> str | None:
        """The plugin's mode, as VLLM_PREFILL_ONLY has it; None: it stays off."""
        return self.knob.removeprefix("plugin-") if self.knob.startswith("plugin-") else None


@dataclass(frozen=True)
class Base:
    """What changes start from."""

    settings: EngineSettings  # stock's effective ones
    arguments: Mapping[str, Any]  # stock's, as asked for
    lengths: Sequence[int]  # tokens of each prompt, in the file's order
    on_gpu: bool
    compute_capability: str | None

    @property
    def room(self) -> int:
        """Tokens that a request may have."""
        return int(self.settings.max_model_len or 1)

    @property
    def step_tokens(self) -> int:
        """Tokens of a step."""
        return int(self.settings.max_num_batched_tokens or 1)


def parse(text: str) -> list[Change]:
    """The change of a name; raises ConfigError if there is none of it."""
    knob, equals, value = text.partition("=")
    option = label("candidates", text)
    if knob not in KNOBS:
        raise ConfigError(f"{option}: no such change; {nearest(knob, KNOBS)}, of {', '.join(KNOBS)}")
    if not equals:
        return [Change(knob)]
    if knob not in SIZED or not value.isdecimal() or not 0 < int(value) < 2**31:
        raise ConfigError(f"{option}: {', '.join(SIZED)} take a whole number from 1 on, others no value")
    return [Change(knob, int(value))]


def spell_out(changes: Iterable[Change], base: Base) -> list[Change]:
    """The changes, each with a value where it takes one: those that are usual, but for stock's own."""
    found: list[Change] = []
    for change in changes:
        values: Iterable[int] = () if change.value is None else [change.value]
        if change.value is None and change.knob == "tokens":
            values = (base.step_tokens // 2, 2 * base.step_tokens)
        elif change.value is None and change.knob == "block-size":
            values = (size for size in BLOCK_SIZES if size != base.settings.block_size)
        elif change.value is None and change.knob == "flash-attn":
            own = base.settings.flash_attn_version
            values = (version for version in FLASH_ATTN_VERSIONS if version != own)
        found += [Change(change.knob, value) for value in values] or [change]
    return list(dict.fromkeys(found))


def why_not(change: Change, base: Base) -> str | None:
    """Why a change is not worth an engine's start; None if it is."""
    settings = base.settings
    if change.kind == "graphs":
        if not base.on_gpu:
            return "CUDA graphs need a GPU"
        if settings.enforce_eager:
            return "--enforce-eager leaves graphs out"
        have = max(settings.cudagraph_capture_sizes or [0])
        if change.knob == "full-graphs":
            if not has_full_graphs(base.arguments, base.compute_capability):
                return "full graphs of prefills need flash attention 3, on Hopper, and vLLM 0.32 or later"
        elif max(_steps(base, base.step_tokens, whole=False)) <= have:
            return f"stock's graphs, of up to {have} tokens, cover every step already"
    elif change.knob == "flash-attn":
        if settings.flash_attn_version is None:
            return f"stock's attention is {', '.join(settings.attention_backend or ['none'])}"
        if change.value == 3 and not (base.compute_capability or "").startswith("9."):
            return f"version 3 needs compute capability 9, this GPU has {base.compute_capability}"
    elif change.knob == "tokens" and change.value is not None:
        if change.value > base.step_tokens >= sum(base.lengths):
            return f"all {units.pluralise(sum(base.lengths), 'token')} fit into one step of stock"
        if change.value < base.step_tokens and change.value >= sum(base.lengths):
            return f"all {units.pluralise(sum(base.lengths), 'token')} fit into one step of that, too"
    if change.value is not None and change.value == _own_value(change, settings):
        return "it is what stock has"
    return None


def _own_value(change: Change, settings: EngineSettings) -> int | None:
    return {
        "tokens": settings.max_num_batched_tokens,
        "block-size": settings.block_size,
        "flash-attn": settings.flash_attn_version,
    }[change.knob]


def arguments(changes: Sequence[Change], base: Base) -> Arguments:
    """vLLM's arguments beside stock's for changes of different kinds, all at once."""
    settings, found = base.settings, Arguments()
    tokens = next((change.value for change in changes if change.knob == "tokens"), None) or base.step_tokens
    if any(change.plugin for change in changes):
        tokens = max(tokens, base.room)
    for change in changes:
        if change.knob == "prefix-caching":
            found["enable_prefix_caching"] = not settings.prefix_caching
        elif change.knob == "async":
            found["async_scheduling"] = not settings.async_scheduling
        elif change.knob == "block-size":
            found["block_size"] = change.value
        elif change.knob == "flash-attn":
            found |= _nested("attention_config", {"flash_attn_version": change.value}, base)
        elif change.plugin:  # what it needs: see docs/plugin.md
            found |= {"enable_prefix_caching": False, "enable_chunked_prefill": False}
    if tokens != base.step_tokens:
        found["max_num_batched_tokens"] = tokens
    if any(change.kind == "graphs" for change in changes):
        graphs: Arguments = {"cudagraph_capture_sizes": graph_sizes(base, tokens)}
        full = any(change.knob == "full-graphs" or change.plugin == "nocache" for change in changes)
        if full and has_full_graphs({**base.arguments, **found}, base.compute_capability):
            graphs["cudagraph_mode"] = "FULL"
        found |= _nested("compilation_config", graphs, base)
    return found


def _nested(name: str, values: Arguments, base: Base) -> Arguments:
    """An argument that is a dictionary, with these values in what the user asked for."""
    theirs = base.arguments.get(name)
    return {name: (theirs if isinstance(theirs, dict) else {}) | values}


def graph_sizes(base: Base, step_tokens: int) -> list[int]:
    """Tokens of CUDA graphs for every step of the work: all prompts at once, cut or whole, and each alone."""
    lone = [min(length, step_tokens) for length in base.lengths]
    steps = [*lone, *_steps(base, step_tokens, whole=False), *_steps(base, step_tokens, whole=True)]
    sizes = sorted({min(-(-tokens // ROUND_TO) * ROUND_TO, step_tokens) for tokens in steps})
    return sorted({1, *(sizes[n] for n in units.pick_evenly(len(sizes), MOST_GRAPHS - 1)), sizes[-1]})


def _steps(base: Base, step_tokens: int, *, whole: bool) -> list[int]:
    """Tokens of each step in which vLLM prefills prompts that are all there, first come first served.

    Args:
        whole: prompts are not cut where a step is full.
    """
    seats = base.settings.max_num_seqs or len(base.lengths)
    steps, prompts = [0], 0
    for length in base.lengths:
        if prompts == seats or (whole and steps[-1] + length > step_tokens):
            steps.append(0)
            prompts = 0
        prompts += 1
        while length > step_tokens - steps[-1]:
            length -= step_tokens - steps[-1]
            steps[-1] = step_tokens
            steps.append(0)
            prompts = 1
        steps[-1] += length
    return [tokens for tokens in steps if tokens]


def combine(best_first: Iterable[Change]) -> list[Change]:
    """Of changes that each help, those that go together: the best of a kind, and no cache beside a plugin."""
    chosen: list[Change] = []
    for change in best_first:
        kinds = {other.kind for other in chosen}
        together = {change.knob, *(other.knob for other in chosen)}
        exclusive = {"plugin": "prefix-caching", "prefix-caching": "plugin"}.get(change.kind)
        if change.kind not in kinds and exclusive not in kinds and not together >= FROZEN:
            chosen.append(change)
    return chosen


def describe(found: Arguments, plugin: str | None) -> str:
    """Arguments as `vllm serve` takes them, with the plugin's variable in front."""
    words = [word for option in found.items() for word in engine_options.words(*option)]
    return " ".join(filter(None, [f"VLLM_PREFILL_ONLY={plugin}" if plugin else "", shlex.join(words)]))


def serve_line(model: str, found: Arguments, plugin: str | None) -> str:
    """The command that serves a model like this."""
    variable = f"VLLM_PREFILL_ONLY={plugin} " if plugin else ""
    return f"{variable}vllm serve {shlex.quote(model)} {describe(found, None)}".rstrip()
