"""An engine's KV cache groups, each with its block table, and the order in which a request gets blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from patches import Symbol, reach

FULL = Symbol("vllm.v1.kv_cache_interface:FullAttentionSpec", ("block_size",))
ATTENTION = Symbol("vllm.v1.kv_cache_interface:AttentionSpec")
NEEDS = (
    FULL, ATTENTION,
    Symbol("vllm.v1.kv_cache_interface:KVCacheConfig", ("num_blocks", "kv_cache_groups")),
    Symbol("vllm.v1.kv_cache_interface:KVCacheGroupSpec", ("layer_names", "kv_cache_spec")),
    Symbol("vllm.v1.kv_cache_interface:KVCacheSpec.page_size_bytes"),
)  # fmt: skip


@dataclass(frozen=True)
class Groups:
    """An engine's KV cache groups, in the order in which a request gets its blocks."""

    layers: tuple[tuple[str, ...], ...]  # names of each group's
    block_sizes: tuple[int, ...]  # tokens of a block in each
    block_bytes: int  # of a block in all layers of its group, the largest group's
    laid_out: int | None  # the group whose blocks can be chosen, the first of attention; None: there is none

    @property
    def block_size(self) -> int | None:
        """Tokens of a block whose place can be chosen."""
        return None if self.laid_out is None else self.block_sizes[self.laid_out]

    @property
    def other_attention(self) -> frozenset[str]:
        """Layers in groups whose blocks cannot be chosen."""
        others = (names for n, names in enumerate(self.layers) if n != self.laid_out)
        return frozenset(name for names in others for name in names)

    def num_blocks(self, lengths: Sequence[int]) -> int:
        """Blocks that new requests of these lengths take, in all groups."""
        return sum(-(-length // size) for length in lengths for size in self.block_sizes)

    def num_other_blocks(self, lengths: Sequence[int]) -> int:
        """Those of them in groups whose blocks cannot be chosen."""
        sizes = [size for n, size in enumerate(self.block_sizes) if n != self.laid_out]
        return sum(-(-length // size) for length in lengths for size in sizes)

    def order(
        self, lengths: Sequence[int], block_ids: Sequence[Sequence[int]], others: Sequence[int]
    ) -> list[int]:
        """The blocks that new requests take from the head of the free queue: by request, then by group.

        Args:
            lengths: tokens of each request.
            block_ids: of each request, in the group that is laid out.
            others: the other groups' blocks, enough of them.
        """
        ids, rest = list[int](), iter(others)
        for length, chosen in zip(lengths, block_ids, strict=True):
            for group, size in enumerate(self.block_sizes):
                ids += chosen if group == self.laid_out else islice(rest, -(-length // size))
        return ids

    def pick(self, lengths: Sequence[int], block_ids: Sequence[int]) -> list[list[int]]:
        """The reverse: each request's blocks in the group that is laid out."""
        rest, picked = iter(block_ids), []
        for length in lengths:
            taken = [list(islice(rest, -(-length // size))) for size in self.block_sizes]
            picked.append([] if self.laid_out is None else taken[self.laid_out])
        return picked


def groups(core: Any) -> Groups:
    """The groups of an `EngineCore`."""
    found = reach(core, "scheduler.kv_cache_config.kv_cache_groups")
    specs = [group.kv_cache_spec for group in found]
    attention = [n for n, spec in enumerate(specs) if isinstance(_first(spec), ATTENTION.resolve())]
    return Groups(
        layers=tuple(tuple(group.layer_names) for group in found),
        block_sizes=tuple(spec.block_size for spec in specs),
        block_bytes=max(
            (
                spec.page_size_bytes * (1 if hasattr(spec, "kv_cache_specs") else len(group.layer_names))
                for group, spec in zip(found, specs, strict=True)
            ),
            default=0,
        ),
        laid_out=min(
            attention, key=lambda n: (type(_first(specs[n])) is not FULL.resolve(), n), default=None
        ),
    )


def _first(spec: Any) -> Any:
    """A group's spec, or one of its layers' where they differ in size alone."""
    own = getattr(spec, "kv_cache_specs", None)
    return next(iter(own.values())) if own else spec
