"""How close the compaction copy comes to a plain device-to-device copy.

    python benchmarks/compaction.py [--gib 1] [--output FILE]

Gathers K and V of one request, in as many segments as it has blocks, into contiguous tensors, and clones the
same bytes, interleaved; bandwidth counts bytes read plus bytes written. Target: 80% for 1 GiB and more.
"""

from __future__ import annotations

import numpy as np
from common import parser_of, report


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--gib", type=float, default=1.0, help="of K and V together")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    shapes = [(12, 64, 16), (12, 64, 256), (8, 128, 16), (8, 128, 256)]
    rows = [measure(*shape, options.gib, options.rounds) for shape in shapes]
    report("compaction", rows, options.output)


def measure(heads: int, dim: int, block_size: int, gib: float, rounds: int) -> dict[str, object]:
    import torch

    from harness import device, layout
    from harness.kernels import DenseKV, PagedKV
    from harness.measure import timers
    from harness.replay import placement

    kind = device.kind()
    blocks = int(gib * 2**30 / (block_size * heads * dim * 2 * 2))
    cache = torch.empty(blocks + 1, block_size, heads, 2 * dim, dtype=torch.bfloat16, device=kind).normal_()
    ids = layout.plan(blocks, blocks, range(1, blocks + 1), seed=0)
    kv = PagedKV(cache.transpose(1, 2), torch.tensor([ids], dtype=torch.int32, device=kind))
    tokens = blocks * block_size
    into = DenseKV(*(cache.new_empty(tokens, heads, dim) for _ in range(2)))
    source, target = (cache.new_empty(2 * tokens * heads * dim).zero_() for _ in range(2))
    timer = timers.for_device(kind)
    steps = [
        timers.Step(lambda: placement.gather(kv, [tokens], into)),
        timers.Step(lambda: target.copy_(source)),
    ]
    times = [timer.time_round(steps) for _ in range(rounds + 3)][3:]
    gather_us, copy_us = np.median(np.array(times), axis=0)
    moved = 2 * source.numel() * 2
    return {
        "heads": heads,
        "head_dim": dim,
        "block_size": block_size,
        "blocks": blocks,
        "gather ms": gather_us / 1e3,
        "gather GB/s": moved / gather_us / 1e3,
        "copy GB/s": moved / copy_us / 1e3,
        "share of copy %": 100 * copy_us / gather_us,
    }


if __name__ == "__main__":
    main()
