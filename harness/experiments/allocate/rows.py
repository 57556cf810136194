"""summary.json of `allocate`, key by key."""

from __future__ import annotations

from pydantic import Field

from harness.runs.record import StatusName
from harness.runs.stored import Amount, Count, Stored
from harness.runs.summary import CellKeys, Summary


class _Pool(Stored):
    num_blocks: Count = Field(description="of the pool, with the one that vLLM keeps")
    caching: str = Field(description="prefix caching, `on` or `off`")


class AllocateCell(_Pool, CellKeys):
    """All requests in one pool, `arm` being the order of allocation."""

    requests: Count = Field(description="served")
    left_out: Count = Field(description="requests with more blocks than the pool")
    segments_per_block: Amount | None = Field(description="of a request once it is prefilled; median")
    p10_segments_per_block: Amount | None = Field(description="10th percentile over the requests")
    p90_segments_per_block: Amount | None = Field(description="90th percentile over the requests")
    blocks_per_segment: Amount | None = Field(description="of all requests together")
    hit_pct: Amount | None = Field(description="of all blocks, found in the prefix cache")
    running: Amount | None = Field(description="requests that hold blocks; median at the end of a prefill")
    served_s: Amount | None = Field(description="from the first arrival to the last prefill's end, modelled")
    layouts: str | None = Field(description="the file with every request's layout, beside run.json")
    status: StatusName = Field(description="`ok`, or what it ended with")
    reason: str | None = Field(default=None, description="why it is not `ok`")


class TimeRow(_Pool, Stored):
    """One pool for a while: a share of the requests, in the order in which their prefills ended."""

    order: str = Field(description="of allocation")
    block_size: Count = Field(description="tokens per block")
    end_s: Amount = Field(description="the last one's end since the first arrival, modelled")
    requests: Count = Field(description="how many")
    segments_per_block: Amount = Field(description="their median")


class AllocateSummary(Summary):
    """All figures of `allocate`."""

    cells: list[AllocateCell]
    over_time: list[TimeRow]
