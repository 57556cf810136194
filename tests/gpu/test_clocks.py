"""NVML's figures of a real GPU are those of a GPU."""

from __future__ import annotations

from harness.measure import clocks


def test_a_reading_is_plausible() -> None:
    reading = clocks.for_device("cuda").read()
    assert reading.sm_mhz is not None
    assert 100 < reading.sm_mhz < 4000
    assert reading.memory_mhz is None or 100 < reading.memory_mhz < 30_000
    assert reading.power_w is None or 1 < reading.power_w < 3000
    assert reading.temperature_c is None or 0 < reading.temperature_c < 120
