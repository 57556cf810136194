"""The memory that all series of a run share: a pool, contiguous bytes beside it, and where they go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from harness import layout
from harness.experiments.transfer.copying import Move
from harness.experiments.transfer.options import TransferConfig
from harness.experiments.transfer.ways import PLANNED, regions
from harness.kernels import Unsupported
from harness.workloads.layouts import fit_pool


@dataclass(frozen=True)
class Case:
    """One series: where the blocks go, and how they lie."""

    direction: str
    kv_layout: str
    layer_tensors: str
    spread_k: int
    layout: str = PLANNED  # or the name of a natural one

    @property
    def series(self) -> str:
        """The name of its series."""
        name = f"{self.direction} {self.kv_layout} {self.layer_tensors} spread={self.spread_k}"
        return name if self.layout == PLANNED else f"{name} {self.layout}"


@dataclass
class Memory:
    """Allocated on first use, for all cases alike: they differ only in how bytes are divided into blocks."""

    config: TransferConfig
    device: str  # "cpu" or "cuda"
    natural: Mapping[str, Sequence[int]] = field(default_factory=dict)  # block ids of layouts from files

    @cached_property
    def _pool(self) -> torch.Tensor:
        """Bytes of twice as many blocks as layouts are planned in, the other half for the placebo."""
        return torch.zeros(2 * self._room * self.config.block_bytes(), dtype=torch.int8, device=self.device)

    @cached_property
    def _flat(self) -> torch.Tensor:
        return torch.zeros(self.config.request_bytes(), dtype=torch.int8, device=self.device)

    @cached_property
    def _host(self) -> torch.Tensor:
        size, pinned = self.config.request_bytes(), self.device == "cuda"
        return torch.zeros(size, dtype=torch.int8, pin_memory=pinned)

    @cached_property
    def _peer(self) -> torch.Tensor:
        gpus = torch.cuda.device_count() if self.device == "cuda" else 0
        if gpus < 2:
            here = f"this machine has {gpus}" if gpus else "there is none here"
            raise Unsupported(f"a transfer between GPUs needs two, {here}")
        return torch.zeros(self.config.request_bytes(), dtype=torch.int8, device="cuda:1")

    @property
    def _room(self) -> int:
        """Blocks that a layout is planned in."""
        scattered = self.config.gap == "scattered" or self.natural
        return self.config.num_blocks() * (layout.SCATTER if scattered else 1)

    def gpus(self) -> list[torch.device]:
        """All GPUs that a transfer may use."""
        if self.device == "cpu":
            return []
        most = 2 if "to_peer" in self.config.directions else 1
        return [torch.device("cuda", n) for n in range(min(most, torch.cuda.device_count()))]

    def move(self, case: Case) -> Move:
        """The request's blocks as the case has them, of random bytes; the destination is arbitrary.

        Raises Unsupported where the case's destination does not exist, and PyTorch's errors where there is
        not enough memory.
        """
        config, blocks = self.config, self.config.num_blocks()
        buffer = self._peer if case.direction == "to_peer" else self._host
        generator = torch.Generator(device=self.device).manual_seed(config.seed)
        for tensor in (self._pool, self._flat):
            _words(tensor).random_(generator=generator)
        buffer.copy_(self._flat)
        _words(self._flat).random_(generator=generator)
        count = regions(config.num_layers or 1, case.kv_layout, case.layer_tensors)
        return Move(
            case.direction,
            self._pool.view(count, 2 * self._room, -1),
            self._flat.view(count, blocks, -1),
            buffer.view(count, blocks, -1),
            np.array(self._block_ids(case), dtype=np.int64),
        )

    def _block_ids(self, case: Case) -> list[int]:
        """Physical ids in logical order, in the first half of the pool."""
        config, room = self.config, range(self._room)
        if case.layout != PLANNED:
            return fit_pool(self.natural[case.layout], room)
        how: dict[str, Any] = {"gap": config.gap, "sizes": config.segment_sizes}
        ids = layout.plan(config.num_blocks(), case.spread_k, room, **how, seed=config.seed + case.spread_k)
        return ids[::-1] if config.falling else ids

    def elsewhere(self, move: Move) -> Move:
        """The same blocks in the other half of the pool: another place, and other bytes."""
        return replace(move, block_ids=move.block_ids + self._room)


def _words(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.view(torch.int64) if tensor.numel() % 8 == 0 else tensor
