"""What a model's layers other than plain attention mean for a run: notices, and the size of its blocks."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from harness import batch
from harness.engine.engine import Engine
from harness.engine.options import EngineError
from harness.experiments.prefill.options import RunConfig
from harness.running.recorder import Recorder
from harness.units import pluralise


def left_out(engine: Engine, longest: int) -> dict[int, str]:
    """Why attention layers are not replayed, by index, where the longest prompt has `longest` tokens."""
    names, reasons = engine.about.layers, engine.about.kinds.not_captured(longest)
    elsewhere = dict.fromkeys(
        engine.groups.other_attention, "its blocks are of another KV cache group than those that are chosen"
    )
    return {n: (elsewhere | reasons)[name] for n, name in enumerate(names) if name in elsewhere | reasons}


def note(engine: Engine, longest: int, recorder: Recorder) -> None:
    """Add a notice for each kind of layer that is not measured like plain attention; `longest` as above."""
    kinds, layers = engine.about.kinds, pluralise(len(engine.about.layers), "layer")
    note_left_out(left_out(engine, longest), recorder)
    if kinds.states:
        recorder.notice(
            f"{pluralise(len(kinds.states), 'layer')} without attention ({_and(kinds.states.values())}): in "
            f"every prefill's time, not replayed: {_some(list(kinds.states))}"
        )
    if kinds.quantised:
        recorder.notice(
            f"the KV cache of {len(kinds.quantised)} of {layers} is {_and(kinds.quantised.values())}: whole "
            "prefills are timed, and what converting costs the cache write; these layers' attention is "
            "neither replayed nor overridden"
        )
    as_in_vllm = len(kinds.not_steered(longest))
    if 0 < as_in_vllm < len(engine.about.layers):
        recorder.notice(
            f"{as_in_vllm} of {layers} run attention as in vLLM in every arm: paging and cache write are "
            "those of the other layers, fragmentation that of all"
        )


def note_left_out(reasons: Mapping[int, str], recorder: Recorder) -> None:
    """Add a notice of the layers left out for each reason.

    Args:
        reasons: by index.
    """
    for reason in dict.fromkeys(reasons.values()):
        indices = [n for n, why in reasons.items() if why == reason]
        which = "layer" if len(indices) == 1 else "layers"
        recorder.notice(f"{which} {', '.join(map(str, indices))} left out: {reason}")


def adopt_block_size(config: RunConfig, engine: Engine, recorder: Recorder) -> RunConfig:
    """The configuration with the engine's block size, which differs from the one asked for in models whose
    blocks must also hold the state of layers without attention.

    Raises:
        EngineError: a prompt has too few of these blocks for its segments.
    """
    size = engine.block_size
    if engine.groups.laid_out is None or size == config.block_size:
        return config
    why = ", which also hold the state of layers without attention" if engine.about.kinds.states else ""
    recorder.notice(f"vLLM caches this model in blocks of {size} tokens{why}, not {config.block_size}")
    most, asked = batch.largest_spread(config.requests, size), config.spreads()
    if dropped := [str(k) for k in asked if k > most]:
        blocks = pluralise(most, "block")
        recorder.notice(f"spread_k = {', '.join(dropped)} left out: the longest prompt takes {blocks}")
    possible = [k for k in asked if k <= most] or [1]
    sweep = {"spread_k": possible, "spread_min": None, "spread_max": None, "spread_step": None}
    adopted = config.model_copy(update={"block_size": size, **sweep})
    if problems := list(adopted.spread_problems()):
        raise EngineError(problems[0])
    return adopted


def _and(names: Collection[str]) -> str:
    return " and ".join(sorted(set(names)))


def _some(names: list[str]) -> str:
    """The names, of more than three the first and the last."""
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} to {names[-1]}"
