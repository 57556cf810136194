"""Real prefills on chosen blocks: one is captured, the others are checked against it.

The caller tells every rank to observe; a rank observes in the process that holds its layers (see
observing.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.engine.engine import Engine, Prefill
from harness.engine.observing import Captured, Ids


def capture(
    engine: Engine, prompts: Ids, block_ids: Ids, layers: Sequence[int] | None
) -> tuple[Prefill, Captured]:
    """Prefill `prompts`, each on its `block_ids`; every rank keeps the calls of `layers` (None: all).

    Returns the first rank's calls as outlines (see capture.outline); the other ranks' look the same.
    """
    with engine.ranks.during("capturing", layers, max(map(len, prompts))) as captured:
        prefill = engine.prefill(prompts, block_ids)
    return prefill, captured[0]


def check(engine: Engine, prompts: Ids, block_ids: Ids, base: Prefill) -> list[str]:
    """Prefill on `block_ids` and return every difference from the captured prefill, in any rank.

    The first tokens and every captured layer's output must be equal, bit for bit: the kernel is the
    same, only the blocks differ. Each row of the block tables must be the requested one.
    """
    expected = [list(ids) for ids in block_ids], engine.block_size
    with engine.ranks.during("checking", *expected) as problems_by_rank:
        prefill = engine.prefill(prompts, block_ids)
    problems = [problem for of_rank in problems_by_rank for problem in of_rank]
    if prefill.first_tokens != base.first_tokens:
        problems.append(f"first tokens {prefill.first_tokens}, at spread_k = 1 they are {base.first_tokens}")
    return problems
