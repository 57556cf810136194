"""Requirements on a model that only some experiments have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.models.shape import ModelError
from harness.units import pluralise

if TYPE_CHECKING:
    from harness.models import ModelSource


def require_cache(source: ModelSource, *, per_head: bool = False) -> None:
    """Raise ModelError if the model has no KV cache, or with `per_head` none with K and V per head."""
    if not source.causal:
        kind = "encoder-only layers (is_causal: false), which keep no KV cache"
    elif per_head and source.latent:
        kind = "latent attention (MLA), whose KV cache is not K and V per head, as the formula has it"
    else:
        return
    raise ModelError(f"--model {source.name}: it has {kind}; choose another model")


def require_transformers_layout(source: ModelSource) -> None:
    """Raise ModelError if transformers cannot load the model, as its files are in Mistral's own layout."""
    if source.in_mistral_format:
        raise ModelError(
            f"--model {source.name}: it has no config.json but Mistral's params.json, which vLLM loads and "
            "transformers does not; give the model in transformers' layout"
        )


def require_own_positions(source: ModelSource, said: str) -> None:
    """Raise ModelError if learned positions had to be extended, which transformers does not do.

    Args:
        said: the options with what was written, e.g. "--lengths 2000".
    """
    needed, limit = source.extended_positions, source.max_positions
    if needed is not None and limit is not None:
        raise ModelError(
            f"{said}: {source.name} has {limit} learned positions, which transformers does not extend; "
            f"take {pluralise(needed - limit, 'token')} fewer"
        )
