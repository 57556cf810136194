"""A vLLM plugin for prefill-only serving: K and V of a prefill never go through the paged cache.

Off unless the environment has VLLM_PREFILL_ONLY. With `step`, attention of every step that computes whole
prompts and ends all its requests runs on that step's own K and V, without cache write and block table; every
other step runs as ever. With `nocache` there is no KV cache at all. See docs/plugin.md.
"""

from __future__ import annotations

import patches
from harness.plugin import loading, requests, startup, steps
from harness.plugin.mode import refuse, requested
from patches import prefill_only


def register() -> None:
    """The entry point of `vllm.general_plugins`; vLLM calls it in every process, in some more than once.

    Raises:
        Refused: the environment has no such mode, or this vLLM is unknown or lacks a symbol.
    """
    if not requested():
        return
    doubts = [*startup.version_doubts(), *patches.problems(prefill_only.NEEDS)]
    if doubts:
        refuse(requested(), doubts)
        return
    for module in (startup, requests, loading, steps):
        module.install()
