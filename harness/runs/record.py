"""What was measured: cells, their statuses and their samples."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from harness.runs import former
from harness.runs.stored import first_problem
from harness.units import type_and_line


def _items(value: object) -> object:
    return tuple(value.items()) if isinstance(value, dict) else value


# Values on axes that only some experiments have, e.g. (("batch_size", 4), ("input_len", 512)).
Point = Annotated[tuple[tuple[str, int | float | str], ...], BeforeValidator(_items)]
Index = Annotated[int, Field(ge=0, le=2**31)]
OneSegmentFor = Annotated[Index | None, Field(validation_alias=former.ONE_SEGMENT_FOR)]
# From what no clock resolves up to 115 days, so that neither ratios nor sums overflow.
Microseconds = Annotated[float, Field(ge=1e-6, le=1e13)]
Reading = Annotated[float, Field(ge=-1e18, le=1e18)]
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
MEMORY_WORDS = (  # PyTorch's messages, then vLLM's at start-up
    "not enough memory|can.?not allocate memory|can't allocate memory|"
    "free memory on device|available (kv cache )?memory"
)


StatusName = Literal[
    "ok", "out_of_memory", "unsupported", "wrong_output", "throttled", "interrupted", "error"
]

Data = Literal["captured", "synthetic"]


class Status(StrEnum):
    """How the measurement of a cell ended."""

    OK = "ok"
    OUT_OF_MEMORY = "out_of_memory"
    UNSUPPORTED = "unsupported"
    WRONG_OUTPUT = "wrong_output"
    THROTTLED = "throttled"
    INTERRUPTED = "interrupted"
    ERROR = "error"


@dataclass(frozen=True)
class Cell:
    """One thing that is measured. Two cells of one series differ in `arm`, or in another single field.

    Other experiments have their own stages, kernels and arms; axes without a field are in `point`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    stage: str  # "kernel", "gather", "cache_write", "end_to_end", or "variant": end to end in another engine
    kernel: str  # e.g. "flash_attn_func"; "gather_kv" and "gather_qkv" for stage gather; "prefill" end to end
    provider: str  # the kernel's origin, e.g. "flash-attn 2.8.3", "vLLM FA3", "SDPA stand-in"
    arm: str  # contiguous | fragmented | dense | paged; a write: paged | converted | unconverted
    spread_k: Index  # segments the request's KV is split into in this cell; 0: as the engine lays it out
    block_size: Index  # tokens per block, as the kernel sees it; 0: nothing is paged
    layer: Index | None  # index of the attention layer; None end to end
    data: Data  # where Q, K and V are from
    point: Point = ()
    variant: str | None = None  # which of several engines, e.g. "block_size=64"; None: the main job's own
    rank: Index | None = None  # of tensor parallelism, whose heads these are; None: only one rank
    request: Index | None = None  # index of the step's request that was measured alone; None: all of them

    def at(self, axis: str) -> int | float | str | None:
        """The value on an axis of `point`; None without one."""
        return dict(self.point).get(axis)


@dataclass(frozen=True)
class Result:
    """A cell's samples, in the order of its series' rounds, or why there are none.

    Results with the same `series` were interleaved: their n-th samples were taken in the same round,
    so differences may be taken pair by pair.

    Times are in `samples_us`. Other readings and counts are in `readings`, under names that end in the unit:
    "allocated_bytes", "hit_rate_pct". If there are samples too, the n-th reading belongs to the n-th sample.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT

    cell: Cell
    series: str  # which interleaved series, e.g. "spread=4 layer=0"
    status: Status
    reason: str | None = None  # why the status is not ok; or a remark on an ok cell's arm
    samples_us: list[Microseconds] = field(default_factory=list)
    warmup_us: list[Microseconds] = field(default_factory=list)  # not part of other statistics
    one_segment_for: OneSegmentFor = None  # this is the baseline inside the series of that spread_k
    control: bool = False  # this is the series' baseline, measured a second time (A/A)
    series_size: Index = 0  # results in the series; fewer on disk: the process was killed while writing them
    clock_mhz: list[Index] = field(
        default_factory=list
    )  # SM clock after each sample of a whole prefill, else after each batch of rounds; empty on a CPU
    stopped: str | None = None  # what ended the series: "precision", "time" or "repeats"; None: none of these
    seed: int | None = None  # of the series' random order; None: it was not sampled
    readings: dict[str, list[Reading]] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, Cell, int | None, bool]:
        """The result's identity: a later result with the same key replaces an earlier one."""
        return self.series, self.cell, self.one_segment_for, self.control

    def to_json(self) -> dict[str, Any]:
        """A JSON object with the cell's fields under "cell"."""
        cell = asdict(self.cell) | {"point": dict(self.cell.point)}
        return asdict(self) | {"cell": cell, "status": self.status.value}

    @classmethod
    def parse(cls, line: bytes | str) -> Result:
        """The inverse of `to_json`, of a line of JSON; older lines may lack fields or use former names.

        Raises ValueError, in one line, on anything else.
        """
        try:
            result = _reader().validate_json(line)
        except ValidationError as error:
            raise ValueError(first_problem(error)) from None
        cell = result.cell
        if cell.kernel == "prefill" and cell.arm in former.ARMS:
            return replace(result, cell=replace(cell, arm=former.ARMS[cell.arm]))
        return result


@cache
def _reader() -> TypeAdapter[Result]:
    return TypeAdapter(Result)


def latest(results: Iterable[Result]) -> list[Result]:
    """The results that count: of several for the same cell (a resumed run), the last."""
    return list({result.key: result for result in results}.values())


def series_name(spread_k: int, layer: int, rank: int | None = None) -> str:
    """The name of the series of one layer's arms at one spread_k; every rank samples its own."""
    return f"spread={spread_k} layer={layer}" + ("" if rank is None else f" rank={rank}")


def request_series_name(spread_k: int, layer: int, request: int, rank: int | None = None) -> str:
    """The name of the series of one request of a batch alone, at one layer and spread_k."""
    return f"{series_name(spread_k, layer, rank)} request={request}"


def in_spread(series: str, spread_k: int) -> bool:
    """Whether a series is one of that spread_k's."""
    return series.startswith(f"spread={spread_k} ")


def status_of(error: Exception) -> tuple[Status, str]:
    """The status and reason of a cell that ended with `error`: its own `status`, if it has one.

    PyTorch's and vLLM's errors are recognised by name and text.
    """
    if isinstance(given := getattr(error, "status", None), Status):
        return given, str(error)
    reason = type_and_line(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return Status.OUT_OF_MEMORY, reason
    if re.search(MEMORY_WORDS, str(error), re.IGNORECASE):
        return Status.OUT_OF_MEMORY, reason
    return Status.ERROR, reason
