"""Which mode is asked for, how an engine's configuration carries it, and how it is refused."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from patches import Symbol

VARIABLE = "VLLM_PREFILL_ONLY"
ON_DOUBT = "VLLM_PREFILL_ONLY_ON_DOUBT"
MODES = ("step", "nocache")
OFF = "off"  # the backends are the plugin's, but a doubt found after loading keeps the mode off
# In `additional_config`, which every worker gets and which is in the key of compiled graphs: one compiled
# with the plugin has no cache write, and must not serve an engine without it.
KEY = "prefill_only"
# Below vLLM's own logger, which has its handlers.
LOG = logging.getLogger("vllm.prefill_only")


class Refused(ValueError):
    """The mode cannot be had; one line that says why and what to change."""


def requested() -> str | None:
    """The mode that the environment asks for. Raises Refused if there is none of that name."""
    value = os.environ.get(VARIABLE, "").strip().lower()
    if value in ("", "0", OFF):
        return None
    if value not in MODES:
        raise Refused(f"{VARIABLE}={value}: must be {' or '.join(MODES)}, or unset")
    return value


def of(vllm_config: Any) -> str | None:
    """The mode of an engine by its configuration, in any of its processes."""
    config = vllm_config.additional_config
    mode = config.get(KEY) if isinstance(config, dict) else None
    return mode if mode in MODES else None


def refuse(mode: str | None, doubts: Sequence[str], may_run: bool = True) -> None:
    """Raise Refused, or with VLLM_PREFILL_ONLY_ON_DOUBT=off warn that the mode stays off.

    Args:
        may_run: whether vLLM can still run without the mode.
    """
    text = f"{VARIABLE}={mode}: {'; '.join(dict.fromkeys(doubts))}"
    if not may_run:
        raise Refused(f"{text}; unset {VARIABLE}")
    if os.environ.get(ON_DOUBT, "").strip().lower() == OFF:
        LOG.warning("%s; vLLM runs without it", text)
        return
    raise Refused(f"{text}; or set {ON_DOUBT}=off, to run without it")


def wrap(symbol: Symbol, wrapper: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace a method of vLLM's by `wrapper(method)`, once."""
    owner = Symbol(symbol.path.rpartition(".")[0]).resolve()
    name = symbol.path.rpartition(".")[2]
    original = getattr(owner, name)
    if getattr(original, KEY, False):
        return
    replacement = functools.wraps(original)(wrapper(original))
    setattr(replacement, KEY, True)
    setattr(owner, name, replacement)
