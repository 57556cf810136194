"""transfer_policy.json: from how many segments on a connector on this device gathers first."""

from __future__ import annotations

import statistics
from typing import Literal

from pydantic import Field

from harness.analysis.rows import find, select
from harness.experiments.transfer.break_even import FASTEST
from harness.experiments.transfer.rows import Group, TransferCell, TransferSummary, groups_of
from harness.experiments.transfer.tables import request_bytes
from harness.experiments.transfer.ways import PLANNED, YARDSTICK, regions
from harness.runs.schema import RunRecord
from harness.runs.stored import Amount, Count, Stored

FILE = "transfer_policy.json"


class Fastest(Stored):
    """The fastest measured way at one number of segments."""

    segments_per_block: Amount
    way: str
    ms: Amount = Field(description="for the whole request")
    gbps: Amount = Field(description="GB/s")


class Entry(Group):
    """One direction and layout."""

    block_bytes: Count = Field(description="contiguous bytes of a block: of one descriptor, unmerged")
    descriptors_per_block: Count = Field(description="tensors that a block lies in")
    gather: Literal["always", "never", "from", "unclear"] = Field(
        description="when gathering first is faster than every other way that was measured"
    )
    gather_from_segments_per_block: Amount | None = Field(description="of `from`: that number; else null")
    certain: bool = Field(description="whether the 95% intervals on either side of it exclude no difference")
    yardstick_gbps: Amount | None = Field(description="one contiguous copy of as many bytes, GB/s")
    fastest: list[Fastest] = Field(description="by ascending segments per block")


class TransferPolicy(Stored):
    """What was measured on one device."""

    schema_version: Literal[1]
    device: str
    versions: dict[str, str | None] = Field(description="of vLLM and PyTorch")
    blocks: Count = Field(description="of the request")
    block_size: Count = Field(description="tokens")
    request_bytes: Count
    l2: str | None = Field(description="`cold` or `warm`; null on a CPU")
    entries: list[Entry]


def of(record: RunRecord, summary: TransferSummary) -> TransferPolicy:
    """The policy that follows from a run, finished or not."""
    config, blocks = record.config, record.num_blocks or 0
    moved = request_bytes(record)
    entries = []
    for group, cells in groups_of(select(summary.cells, layout=PLANNED)):
        found = find(summary.break_even, against=FASTEST, **group)
        assert found is not None
        pieces = regions(config["num_layers"], group["kv_layout"], group["layer_tensors"])
        yardstick = [row.gbps for row in select(cells, kernel=YARDSTICK) if row.gbps is not None]
        entries.append(
            Entry(
                **group,
                block_bytes=moved // (blocks * pieces),
                descriptors_per_block=pieces,
                gather=found.gather,
                gather_from_segments_per_block=found.segments_per_block,
                certain=found.certain,
                yardstick_gbps=statistics.median(yardstick) if yardstick else None,
                fastest=_fastest(cells),
            )
        )
    return TransferPolicy(
        schema_version=1,
        device=record.device.name,
        versions={name: record.versions.get(name) for name in ("vllm", "torch")},
        blocks=blocks,
        block_size=config["block_size"],
        request_bytes=moved,
        l2=config.get("l2"),
        entries=entries,
    )


def _fastest(cells: list[TransferCell]) -> list[Fastest]:
    found = []
    for spread_k in sorted({row.spread_k for row in cells}):
        timed = [
            (row.median_us, row)
            for row in select(cells, spread_k=spread_k, arm="fragmented")
            if row.median_us is not None and row.gbps is not None
        ]
        if timed:
            median_us, row = min(timed, key=lambda each: each[0])
            found.append(
                Fastest(
                    segments_per_block=row.segments_per_block,
                    way=row.kernel,
                    ms=median_us / 1000,
                    gbps=row.gbps or 0.0,
                )
            )
    return found
