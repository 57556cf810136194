"""What a cell's error says of it, and what its samples can be."""

from __future__ import annotations

import json

import pytest

from harness.runs.record import Result, Status, status_of
from tests.made_up.builder import result


class OutOfMemoryError(RuntimeError):
    """PyTorch's, by its name: a CPU build raises it as well."""


class Refused(Exception):
    status = Status.UNSUPPORTED


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError("no room"), Status.OUT_OF_MEMORY),
        (OutOfMemoryError("tried to allocate 20 MiB"), Status.OUT_OF_MEMORY),
        (RuntimeError("DefaultCPUAllocator: not enough memory"), Status.OUT_OF_MEMORY),
        (ValueError("Free memory on device (1 GiB) is less than desired"), Status.OUT_OF_MEMORY),
        (RuntimeError("an illegal memory access was encountered"), Status.ERROR),
        (Refused("no head of 33"), Status.UNSUPPORTED),
    ],
)
def test_a_cell_s_status_follows_from_its_error(error: Exception, status: Status) -> None:
    found, reason = status_of(error)
    assert found is status
    assert str(error) in reason


@pytest.mark.parametrize("us", [0.0, 0, -1.0, 5e-324, 1e308, True, "1"])
def test_a_sample_is_a_time_that_a_clock_can_measure(us: object) -> None:
    line = result("kernel", "a", "b", "paged", samples_us=[1.0]).to_json()
    with pytest.raises(ValueError, match="samples_us"):
        Result.parse(json.dumps(line | {"samples_us": [1.0, us]}))
