"""The memory counters of a process on a CPU."""

from __future__ import annotations

from harness.measure import memory
from harness.measure.process_memory import NO_CUDA, Meter


def test_a_cpu_s_counters_are_of_resident_pages_and_see_what_is_allocated():
    meter = Meter("cpu")
    before = meter.read()
    assert before.keys() == {"rss_bytes", "peak_rss_bytes"}
    assert 0 < before["rss_bytes"] <= before["peak_rss_bytes"]
    held = bytearray(b"x" * (64 << 20))
    assert meter.read()["rss_bytes"] >= before["rss_bytes"] + len(held) // 2
    assert meter.sources["allocated"] == meter.sources["reserved"] == NO_CUDA
    assert "VmRSS" in meter.sources["RSS"]


def test_bytes_in_use_on_a_cpu_are_resident_pages():
    resident = Meter("cpu").read()["rss_bytes"]
    assert abs(memory.now_bytes("cpu") - resident) < 16 << 20
    before = memory.now_bytes("cpu")
    held = bytearray(b"x" * (64 << 20))
    assert memory.now_bytes("cpu") >= before + len(held) // 2
