"""What the GPU's clocks do while samples are taken, asked of NVML. Nothing here sets a clock or a limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from harness import device

# Bits of NVML's clocks event reasons (nvml.h, nvmlClocksEventReasons) that mean the GPU protects itself
# and is slower than its load and settings ask for. Left out, because they are the normal state of a sound
# GPU: idle, application clocks, display clocks, sync boost. The power cap is apart: see ClockReading.
THROTTLED_BY = {
    0x08: "hardware slowdown",  # clocks cut to half or less: heat, power brake or a power spike
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",  # asked for from outside, e.g. by the power supply
}
POWER_CAP = 0x04


@dataclass(frozen=True)
class ClockReading:
    """One look at the GPU; None where it does not say. NVML's figures are up to tens of ms old."""

    sm_mhz: int | None = None
    memory_mhz: int | None = None
    power_w: float | None = None
    temperature_c: int | None = None
    throttle_reasons: tuple[str, ...] = ()  # names out of THROTTLED_BY; empty: not throttled
    # The driver holds the clock below its maximum to stay within the power limit. That is no throttling:
    # a data-centre GPU under a heavy kernel is meant to run there, and to discard it would discard the very
    # load that is measured. What it does to the figures shows in sm_mhz.
    power_capped: bool = False


class ClockMonitor(Protocol):
    """Looks at the clocks; meant to be asked between blocks of samples, so cheap."""

    def read(self) -> ClockReading:
        """The state right now; never raises."""
        ...


class NoClocks:
    """For CPUs, and where NVML does not answer: nothing is known and nothing counts as throttled."""

    def read(self) -> ClockReading:
        return ClockReading()


class NvmlClocks:
    """The clocks of one GPU, by its NVML handle; for a MIG slice those of the GPU it is a part of.

    A reading is five NVML queries, none of which waits for the GPU.
    """

    def __init__(self, handle: Any) -> None:
        import pynvml

        self._nvml = pynvml
        try:
            self._handle = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
        except pynvml.NVMLError:  # it is a whole GPU
            self._handle = handle

    def read(self) -> ClockReading:
        nvml = self._nvml
        power_mw = self._ask(nvml.nvmlDeviceGetPowerUsage)
        reasons = self._ask(nvml.nvmlDeviceGetCurrentClocksEventReasons) or 0
        return ClockReading(
            sm_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            memory_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
            power_w=None if power_mw is None else power_mw / 1000,
            temperature_c=self._ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            throttle_reasons=throttle_reasons(reasons),
            power_capped=bool(reasons & POWER_CAP),
        )

    def _ask(self, query: Callable[..., Any], *arguments: int) -> int | None:
        """The query's answer; None if this GPU or driver has none."""
        try:
            return int(query(self._handle, *arguments))
        except self._nvml.NVMLError:
            return None


def throttle_reasons(bits: int) -> tuple[str, ...]:
    """The names of those of NVML's clocks event reasons that count as throttling."""
    return tuple(name for bit, name in THROTTLED_BY.items() if bits & bit)


def for_device(kind: str, index: int = 0) -> ClockMonitor:
    """The monitor for "cpu" or "cuda", NoClocks if the device tells none.

    Args:
        index: of the device among those that CUDA may use.
    """
    devices = [] if kind == "cpu" else device.nvidia_devices()
    if index < len(devices) and (monitor := NvmlClocks(devices[index])).read().sm_mhz is not None:
        return monitor
    return NoClocks()
