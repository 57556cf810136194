"""Keys and arms that stored runs had under schema 1 -> their names now."""

from __future__ import annotations

from pydantic import AliasChoices

RECORD_KEYS = {"planted_ms": "injected_ms"}
SUMMARY_KEYS = {  # of the main job, at any depth
    "closure": "residual",
    "closure_pct": "residual_pct",
    "closed": "includes_zero",
    "one_run_us": "one_segment_us",
    "planted_ms": "injected_ms",
    "planted_ci95_ms": "injected_ci95_ms",
}
ARMS = {"no_cache": "no_write"}  # of whole prefills; what kvcache calls no_cache is another thing
ONE_SEGMENT_FOR = AliasChoices("one_segment_for", "one_run_for")  # of samples.jsonl, which has no version
