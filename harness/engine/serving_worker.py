"""A base of vLLM's workers, which import this module ahead of the model, plugin installed or not."""

from __future__ import annotations

from harness import plugin
from patches import amx

amx.enable()
plugin.register()


class Workers:
    """See `worker_extension_cls` of vLLM."""
