"""Which clock events count as throttling, and machines that say nothing of their clocks."""

from __future__ import annotations

import pytest

from harness.measure import clocks


@pytest.mark.parametrize(
    ("reason", "counts"),
    [
        ("GpuIdle", False),
        ("ApplicationsClocksSetting", False),
        ("SwPowerCap", False),
        ("SyncBoost", False),
        ("DisplayClockSetting", False),
        ("HwSlowdown", True),
        ("SwThermalSlowdown", True),
        ("HwThermalSlowdown", True),
        ("HwPowerBrakeSlowdown", True),
    ],
)
def test_only_what_protects_the_gpu_is_throttling(reason: str, counts: bool) -> None:
    pynvml = pytest.importorskip("pynvml")
    bits = getattr(pynvml, f"nvmlClocksEventReason{reason}")
    assert bool(clocks.throttle_reasons(bits)) is counts


def test_every_reason_is_named() -> None:
    assert clocks.throttle_reasons(0) == ()
    assert clocks.throttle_reasons(0xFF) == tuple(clocks.THROTTLED_BY.values())


def test_without_a_device_nothing_is_known_and_nothing_throttled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for kind in ("cpu", "cuda"):
        reading = clocks.for_device(kind).read()
        assert (reading.sm_mhz, reading.throttle_reasons, reading.power_capped) == (None, (), False)


def test_a_gpu_that_reports_nothing_is_neither_throttled_nor_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    pynvml = pytest.importorskip("pynvml")

    def unsupported(*_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    for name in dir(pynvml):
        if name.startswith("nvmlDeviceGet"):
            monkeypatch.setattr(pynvml, name, unsupported)
    assert clocks.NvmlClocks(object()).read() == clocks.ClockReading()
