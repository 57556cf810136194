"""How values of a record read on a page."""

from __future__ import annotations

import pytest

from harness.report.page.facts import environment
from harness.units import GIB, MIB
from tests.made_up.builder import run_record


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("kv_cache_bytes", GIB, "1.0 GiB"),
        ("kv_cache_bytes", GIB - MIB, "1023.0 MiB"),
        ("flash_attn_version", None, "none"),
        ("start_s", 20.123456789, "20.1235"),
        ("attention_backend", ["FLASH_ATTN", "TRITON_ATTN"], "FLASH_ATTN, TRITON_ATTN"),
        ("enforce_eager", True, "True"),
    ],
)
def test_a_value_has_its_unit_and_what_is_missing_says_so(key, value, text):
    parts = {part.title: dict(part.values) for part in environment(run_record(engine={key: value}))}
    assert parts["Engine"] == {key.removesuffix("_bytes").replace("_", " "): text}


def test_ceilings_and_the_largest_peak_are_of_the_run():
    record = run_record(
        ceilings={"tflops": 800.0, "gbps": None}, peak_memory_bytes={"spread=1": MIB, "spread=4": 2 * MIB}
    )
    parts = {part.title: dict(part.values) for part in environment(record)}
    assert parts["Run"] == {
        "status": "running",
        "ceiling tflops": "800",
        "ceiling gbps": "none",
        "peak memory": "2.0 MiB",
    }
    assert "Engine" not in parts
