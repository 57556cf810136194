"""Schema 1: keys and arms of stored runs -> their names now, and the conversion of a record."""

from __future__ import annotations

from typing import Any

from pydantic import AliasChoices

from harness.config import former_options

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


def upgrade_record(data: dict[str, Any], version: int) -> dict[str, Any]:
    """Convert the content of a run.json, or a part of it, from that schema version to this one."""
    return _from_1(data) if version == 1 else data


def _from_1(data: dict[str, Any]) -> dict[str, Any]:
    """Convert a record of schema 1: former names, a missing experiment in the oldest, unused keys."""
    renamed = {RECORD_KEYS.get(key, key): value for key, value in data.items()}
    record = {"experiment": "prefill", "notices": []} | renamed | {"schema_version": 2}
    if isinstance(config := record.get("config"), dict):
        record["config"] = former_options.rename(config)
    record.pop("reference_error", None)
    if isinstance(model := record.get("model"), dict):
        record["model"] = {key: value for key, value in model.items() if key != "path"}
    if isinstance(record.get("first_tokens"), dict):
        record["tokens_by_stage"] = record.pop("first_tokens")
    if isinstance(errors := record.get("logits_error"), dict):
        record["logits_error"] = {ARMS.get(arm, arm): error for arm, error in errors.items()}
    if isinstance(profiles := record.get("profile"), list):
        record["profile"] = [
            _arm_of_now(profile) if isinstance(profile, dict) else profile for profile in profiles
        ]
    return record


def _arm_of_now(profile: dict[str, Any]) -> dict[str, Any]:
    arm = profile.get("arm")
    return profile | {"arm": ARMS[arm]} if isinstance(arm, str) and arm in ARMS else profile
