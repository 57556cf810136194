"""The GPU's clocks while samples are taken, from NVML. Nothing here sets a clock or a limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from harness import device

# Bits of NVML's clocks event reasons (nvml.h, nvmlClocksEventReasons) that mean the GPU is protecting itself
# and is slower than load and settings allow. Left out, as they are the normal state of a healthy
# GPU: idle, application clocks, display clocks, sync boost. The power cap is separate: see ClockReading.
THROTTLED_BY = {
    0x08: "hardware slowdown",  # clocks halved or lower: heat, power brake or a power spike
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",  # requested externally, e.g. by the power supply
}
POWER_CAP = 0x04


@dataclass(frozen=True)
class ClockReading:
    """One reading of the GPU; None where it does not report. NVML's figures are up to tens of ms old."""

    sm_mhz: int | None = None
    memory_mhz: int | None = None
    power_w: float | None = None
    temperature_c: int | None = None
    throttle_reasons: tuple[str, ...] = ()  # names from THROTTLED_BY; empty: not throttled
    # The driver keeps the clock below its maximum to stay within the power limit. That is not throttling:
    # a data-centre GPU under a heavy kernel is meant to run there, and discarding it would discard the very
    # load being measured. Its effect shows in sm_mhz.
    power_capped: bool = False


class ClockMonitor(Protocol):
    """Reads the clocks; cheap, as it is called between batches of rounds."""

    def read(self) -> ClockReading:
        """The state right now; never raises."""
        ...

    def sm_mhz(self) -> int | None:
        """The SM clock alone, in a single query."""
        ...


class NoClocks:
    """For CPUs and where NVML does not answer: nothing is known, and nothing counts as throttled."""

    def read(self) -> ClockReading:
        return ClockReading()

    def sm_mhz(self) -> int | None:
        return None


class NvmlClocks:
    """The clocks of one GPU, by its NVML handle; for a MIG slice, those of its GPU.

    A reading is five NVML queries, none of which waits for the GPU.
    """

    def __init__(self, handle: Any) -> None:
        import pynvml

        self._nvml = pynvml
        try:
            self._handle = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
        except pynvml.NVMLError:  # not a MIG slice
            self._handle = handle

    def read(self) -> ClockReading:
        nvml = self._nvml
        power_mw = self._ask(nvml.nvmlDeviceGetPowerUsage)
        reasons = self._ask(nvml.nvmlDeviceGetCurrentClocksEventReasons) or 0
        return ClockReading(
            sm_mhz=self.sm_mhz(),
            memory_mhz=self._ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
            power_w=None if power_mw is None else power_mw / 1000,
            temperature_c=self._ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            throttle_reasons=throttle_reasons(reasons),
            power_capped=bool(reasons & POWER_CAP),
        )

    def sm_mhz(self) -> int | None:
        return self._ask(self._nvml.nvmlDeviceGetClockInfo, self._nvml.NVML_CLOCK_SM)

    def _ask(self, query: Callable[..., Any], *arguments: int) -> int | None:
        """The query's answer; None if this GPU or driver has none."""
        try:
            return int(query(self._handle, *arguments))
        except self._nvml.NVMLError:
            return None


def throttle_reasons(bits: int) -> tuple[str, ...]:
    """Names of those NVML clocks event reasons that count as throttling."""
    return tuple(name for bit, name in THROTTLED_BY.items() if bits & bit)


def for_device(kind: str, index: int = 0) -> ClockMonitor:
    """The monitor for "cpu" or "cuda"; NoClocks if the device reports none.

    Args:
        index: of the device among those that CUDA may use.
    """
    devices = [] if kind == "cpu" else device.nvidia_devices()
    if index < len(devices) and (monitor := NvmlClocks(devices[index])).read().sm_mhz is not None:
        return monitor
    return NoClocks()
