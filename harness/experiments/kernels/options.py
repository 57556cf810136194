"""Options of the experiment `kernels`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from harness.calls.shape import AttentionShape
from harness.config import fields, kernel_names
from harness.config.defaults import DeviceKind
from harness.config.errors import label, refuse
from harness.config.fields import Common, Count, KernelTiming, NonEmpty, Sweep, deduplicate

GROUPS: dict[str, list[str]] = {
    "what is compared": ["kernels"],
    "inputs": [
        "length",
        "seq_len_q",
        "batch_size",
        "num_heads",
        "num_kv_heads",
        "head_dim",
        "dtype",
        "causal",
        "block_size",
        "seed",
    ],
    "layout sweep": fields.SWEEP_OPTIONS,
    "measuring": [*fields.SAMPLING_OPTIONS, *fields.KERNEL_TIMING_OPTIONS],
    "output": fields.OUTPUT_OPTIONS,
}


class KernelsConfig(Common, Sweep, KernelTiming):
    """Random Q, K and V of these shapes. `resolve` fills in what is None."""

    experiment: ClassVar[str] = "kernels"

    kernels: Annotated[list[NonEmpty], Field(min_length=1)] = Field(
        [*kernel_names.FUNCTIONS],
        description="any of " + ", ".join(kernel_names.KNOWN) + "; a kernel that cannot run here gives the "
        "reason",
    )
    length: Count = Field(4096, description="tokens of each sequence's K and V")
    seq_len_q: Count | None = Field(
        None,
        description="tokens of Q, at the end of the sequence: fewer than --length for a chunk of a prefill, "
        "1 for a decode step (default: all)",
    )
    batch_size: Count = Field(1, description="number of sequences, all of the same length")
    num_heads: Count = Field(12, description="heads of Q")
    num_kv_heads: Count | None = Field(None, description="heads of K and V (default: as many as of Q)")
    head_dim: Count = Field(64, description="values per head")
    dtype: Literal["float16", "bfloat16", "float32"] = Field(
        "bfloat16", description="data type of Q, K and V"
    )
    causal: bool = Field(
        True, description="a query sees the keys up to its own position: the last query sees all of them"
    )
    block_size: Count = Field(
        256,
        description="tokens per block; segments are whole blocks. flash_attn_with_kvcache of flash-attn 2 "
        "needs multiples of 256 and gets a copy otherwise",
    )

    def shape(self) -> AttentionShape:
        """The call's shape; needs a resolved configuration."""
        return AttentionShape(
            batch_size=self.batch_size,
            query_len=self.seq_len_q or self.length,
            kv_len=self.length,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads or self.num_heads,
            head_dim=self.head_dim,
            dtype=self.dtype,
            causal=self.causal,
        )

    _deduplicate = field_validator("kernels")(deduplicate)


def resolve(config: KernelsConfig, device_kind: DeviceKind) -> KernelsConfig:
    """Fill in what depends on the device and check the result against it. Raises ConfigError."""
    chosen = {
        "seq_len_q": config.seq_len_q or config.length,
        "num_kv_heads": config.num_kv_heads or config.num_heads,
    }
    name = f"kernels-{config.length}"
    resolved = fields.resolve_common(config, device_kind, name).model_copy(update=chosen)
    problems = fields.common_problems(resolved, device_kind)
    unknown = (kernel_names.problem(label("kernels", name), name) for name in resolved.kernels)
    problems += filter(None, unknown)
    refuse([*problems, *_shape_problems(resolved), *resolved.spread_problems()])
    return resolved


def _shape_problems(config: KernelsConfig) -> Iterable[str]:
    queries, heads, kv_heads = config.seq_len_q or 0, config.num_heads, config.num_kv_heads or 1
    if queries > config.length:
        yield f"{label('seq_len_q', queries)}: must be at most --length {config.length}; raise --length"
    if heads % kv_heads:
        yield (
            f"{label('num_kv_heads', kv_heads)}: must divide --num-heads {heads}; "
            f"take {max(n for n in range(1, kv_heads) if heads % n == 0)}"
        )


def plan(config: KernelsConfig) -> list[str]:
    """What a resolved configuration measures, a line each."""
    shape = f"{config.batch_size} x {config.length} tokens, {config.num_heads} heads of {config.head_dim}"
    return [
        f"inputs: {shape}, {config.dtype}",
        f"kernels: {', '.join(config.kernels)}",
        f"spread_k: {', '.join(map(str, config.spreads()))}, one series each",
    ]
