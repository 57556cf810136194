"""summary.json: what all experiments' summaries share, and the fields that rows of several have in common.

An experiment's own rows are in its rows.py. Times are in us or ms, as keys end; null was not measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import Field, PrivateAttr

from harness.runs.record import StatusName
from harness.runs.schema import RunRecord
from harness.runs.stored import Amount, Count, Interval, RunStatus, Stored, require_readable

SCHEMA_VERSION = 2
S = TypeVar("S", bound="Summary")
R = TypeVar("R", bound=Stored)

Verdict = Literal["slower", "faster", "same", "unclear"]


class Reason(StrEnum):
    """Why a verdict is what it is; `about` says it in words."""

    about: str

    def __new__(cls, value: str, about: str) -> Reason:
        reason = str.__new__(cls, value)
        reason._value_, reason.about = value, about
        return reason

    WITHIN_TOLERANCE = "within_tolerance", "the whole interval lies within the tolerance"
    BEYOND_TOLERANCE = "beyond_tolerance", "the whole interval lies beyond the tolerance"
    EXCLUDES_ZERO = "excludes_zero", "the interval excludes zero, but reaches into the tolerance"
    INTERVAL_TOO_WIDE = "interval_too_wide", "the interval leaves both open: no effect, and one that matters"
    NO_INTERVAL = "no_interval", "there are too few rounds for an interval"
    ARM_NOT_OK = "arm_not_ok", "an arm was throttled, interrupted or otherwise not ok"
    WITHIN_NOISE = "within_noise", "the interval alone decides, but not once the noise floor is added"
    NO_NOISE_FLOOR = "no_noise_floor", "the noise floor, which the interval is to be widened by, is not known"
    BUSY_HOST = "busy_host", "other processes kept the host busy"
    NOT_CLAIMABLE = "not_claimable", "its p-value is above what Holm's procedure leaves beside the others"


ReasonCode = Annotated[  # of a verdict; null: there is none, or an earlier version wrote the file
    Annotated[Reason, Field(strict=False)] | None, Field(description="why the verdict: a reason code")
]
HolmLevel = Annotated[
    Amount | None, Field(description="the p-value up to which Holm's procedure lets the page claim a verdict")
]
Clock = Annotated[Amount | None, Field(description="median SM clock, MHz")]


class Index(Generic[R]):
    """Rows by what identifies them: looking one up takes as long in a million as in ten."""

    def __init__(self, rows: Sequence[R]) -> None:
        self.rows = rows
        self._groups: dict[tuple[str, ...], dict[tuple[object, ...], list[R]]] = {}

    def select(self, **keys: object) -> list[R]:
        """The rows that have all of these values."""
        return self._by(tuple(keys)).get(tuple(keys.values()), [])

    def find(self, **keys: object) -> R | None:
        """The first of them; None if there is none."""
        return next(iter(self.select(**keys)), None)

    def distinct(self, *names: str) -> list[tuple[Any, ...]]:
        """The values that rows have of these fields, each once, in the order of the rows."""
        return list(self._by(names))

    def _by(self, names: tuple[str, ...]) -> dict[tuple[object, ...], list[R]]:
        if names not in self._groups:
            groups = self._groups[names] = dict[tuple[object, ...], list[R]]()
            for row in self.rows:
                groups.setdefault(tuple(getattr(row, name) for name in names), []).append(row)
        return self._groups[names]


class Summary(Stored):
    """The common beginning of every experiment's summary."""

    schema_version: Literal[2] = Field(default=2, description="2")
    status: RunStatus = Field(description="as in the record")
    _indices: dict[int, Index[Any]] = PrivateAttr(default_factory=dict)  # by the id of their rows

    def index(self, rows: Sequence[R]) -> Index[R]:
        """The index of rows that this summary holds, made once."""
        if id(rows) not in self._indices:
            self._indices[id(rows)] = Index(rows)
        return self._indices[id(rows)]

    def conclude(self, record: RunRecord) -> None:
        """Fill in what follows from verdicts, once all of them hold together."""

    @classmethod
    def parse(cls: type[S], data: object) -> S:
        """Read a summary of this version or an earlier one.

        Raises, in one line, TooNew if a later version wrote it, ValueError on anything else.
        """
        version = require_readable(data, SCHEMA_VERSION)
        assert isinstance(data, dict)
        return cls.check(cls.upgrade(data, version))

    @classmethod
    def upgrade(cls, data: dict[str, Any], version: int) -> dict[str, Any]:
        """Convert a summary, or a part of one, from that schema version to this one."""
        return cls.from_1(data) if version == 1 else data

    @classmethod
    def from_1(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Convert a summary of schema 1 to this schema."""
        return data | {"schema_version": SCHEMA_VERSION}


class CellKeys(Stored):
    """What was measured."""

    stage: str = Field(description="`kernel`, `gather`, `cache_write`, `end_to_end`, ...")
    kernel: str = Field(description="e.g. `flash_attn_func`; `prefill` end to end")
    provider: str = Field(description="the kernel's origin")
    arm: str = Field(description="one way of running the same work")
    spread_k: Count = Field(
        description="segments that a prompt's blocks are split into; 0: as the engine does"
    )
    block_size: Count = Field(description="tokens per block, as the kernel sees it; 0: nothing is paged")
    data: Literal["captured", "synthetic"] | None = Field(default=None, description="which inputs")


class Timed(Stored):
    """Of samples."""

    median_us: Amount | None = Field(description="null: not measured")
    ci95_us: Interval | None = Field(description="null below 6 samples")
    mean_us: Amount | None = Field(default=None, description="over the samples")
    n: Count = Field(description="samples")
    warnings: list[str] = Field(description="warnings about the samples")


class WarmUp(Stored):
    """Of the warm-up samples."""

    warmup_us: Amount | None = Field(default=None, description="their mean")


class Outcome(Stored):
    """How a cell ended."""

    stopped: str | None = Field(
        default=None, description="what ended its series: `precision`, `time`, `rounds` or `repeats`"
    )
    status: StatusName = Field(description="`ok`, or what it ended with")
    reason: str | None = Field(default=None, description="why it is not `ok`, or a remark")


class KernelTimes(Outcome, WarmUp, Timed, CellKeys):
    """A kernel's arm, in us."""

    gather_us: Amount | None = Field(description="of the gather that the arm needs")
    tflops: Amount | None = Field(description="TFLOP/s")
    gbps: Amount | None = Field(description="the least memory traffic, GB/s")


class PairFigures(Stored):
    """Treatment minus baseline, pair by pair."""

    baseline_us: float = Field(description="its median")
    delta_us: float = Field(description="mean of the differences, outliers bounded")
    delta_pct: float = Field(description="of the baseline")
    ci95_us: Interval | None = Field(description="null below 6 pairs")
    ci95_pct: Interval | None = Field(description="of the baseline")
    p_value: Amount | None = Field(default=None, description="if there were no difference")
    verdict: Verdict = Field(description="of the treatment")
    reason_code: ReasonCode = None
    holm_level: HolmLevel = None
    clock_mhz: Clock = None
    detectable_pct: Amount | None = Field(default=None, description="half the interval's width")
    n: Count = Field(description="pairs")


class ContrastKeys(Stored):
    """Identifies a contrast."""

    contrast: str = Field(description="its name; `A/A` is the noise floor")
    kernel: str = Field(description="the treatment's")
    spread_k: Count = Field(description="the treatment's")


class ContrastFigures(PairFigures, ContrastKeys):
    """A contrast of an experiment."""
