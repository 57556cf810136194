"""AttentionShape: an attention call's shape, without the data in its tensors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class AttentionShape:
    """Sequences of one length; the queries of each are its last tokens."""

    batch_size: int  # sequences
    query_len: int  # tokens in Q of each
    kv_len: int  # tokens in K and V of each
    num_heads: int  # of Q
    num_kv_heads: int
    head_dim: int
    dtype: str  # PyTorch's name, e.g. "bfloat16"
    causal: bool = True
