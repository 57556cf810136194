"""summary.json of `transfer`, key by key."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeVar

from pydantic import Field

from harness.experiments.transfer.ways import PLANNED
from harness.runs.stored import Amount, Count, Stored
from harness.runs.summary import CellKeys, ContrastFigures, Outcome, Summary, Timed, WarmUp

Gather = Literal["always", "never", "from", "unclear"]


class Group(Stored):
    """What the points of one curve over spread_k share."""

    direction: str = Field(description="`to_host`, `to_gpu` or `to_peer`")
    kv_layout: str = Field(description="`interleaved` or `stacked`")
    layer_tensors: str = Field(description="`apart` or `together`")


G = TypeVar("G", bound=Group)


class _Readings(Stored):
    descriptors: Amount | None = Field(default=None, description="copies that are submitted")
    host_us: Amount | None = Field(
        default=None, description="until the call returns; median of the rounds. On a CPU the whole copy"
    )


class _Layout(Group):
    layout: str = Field(default=PLANNED, description="`planned`, or which one from a file of natural layouts")


class TransferCell(Outcome, _Readings, WarmUp, Timed, _Layout, CellKeys):
    """One way of moving the request's blocks; times in us."""

    segments_per_block: Amount = Field(description="spread_k over the number of blocks")
    gbps: Amount | None = Field(description="GB/s: all bytes of the request over the median")
    share_pct: Amount | None = Field(description="of the yardstick's GB/s, in the same series")


class TransferContrast(_Layout, ContrastFigures):
    """`yardstick`: a way against one contiguous copy. `gather`: gather and one copy against the way that is
    the `baseline`. `A/A` and `placebo`: of the gather."""

    baseline: str = Field(description="the way that is compared with")


class BreakEven(Group):
    """From how many segments on gather and one copy takes less time than another way."""

    against: str = Field(description="that way; `fastest`: at each spread_k the fastest of all others")
    gather: Gather = Field(
        description="`always` or `never` faster, or `from` a number of segments; `unclear`: not measured"
    )
    spread_k: Amount | None = Field(description="that number, between two measured ones")
    segments_per_block: Amount | None = Field(description="the same, over the number of blocks")
    last_slower: Count | None = Field(description="the largest measured spread_k at which it is not faster")
    first_faster: Count | None = Field(description="the measured spread_k after that")
    certain: bool = Field(
        description="whether the 95% intervals at the deciding spread_k exclude no difference"
    )


class HandOver(Group):
    """A stored run's prefill, and then the transfer of its KV cache."""

    kernel: str = Field(description="the way")
    spread_k: Count = Field(description="of the transfer")
    prefill_spread_k: Count = Field(description="of the prefill: the largest measured one up to that")
    prefill_us: Amount = Field(description="median")
    transfer_us: Amount = Field(description="median")
    total_us: Amount = Field(description="their sum: the transfer begins when the prefill has ended")
    transfer_pct: Amount = Field(description="the transfer's share of it")


class TransferSummary(Summary):
    """All figures of `transfer`."""

    cells: list[TransferCell]
    contrasts: list[TransferContrast]
    break_even: list[BreakEven]
    hand_over: list[HandOver]
    tolerance_pct: Amount = Field(description="within which a difference is `same`")


def groups_of(rows: Iterable[G]) -> list[tuple[dict[str, str], list[G]]]:
    """The rows of each direction and layout, with what identifies it, in the order of the rows."""
    groups: dict[tuple[str, ...], list[G]] = {}
    for row in rows:
        groups.setdefault(tuple(getattr(row, name) for name in Group.model_fields), []).append(row)
    return [(dict(zip(Group.model_fields, key, strict=True)), members) for key, members in groups.items()]
