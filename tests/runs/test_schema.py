"""run.json and samples.jsonl as they are read: old ones too, and one line for what is neither."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.config import former_options
from harness.runs import former
from harness.runs.record import Cell, Result, Status
from harness.runs.schema import RunRecord
from harness.runs.store import RunDirectory
from harness.runs.stored import TooNew
from harness.runs.writing import Damaged
from tests.made_up.builder import run_record

ROOT = Path(__file__).resolve().parents[2]
STORED = sorted([*ROOT.glob("tests/data/*/run.json"), *ROOT.glob("docs/study/data/*/*/run.json")])
DROPPED = {"reference_error"}  # of the first schema, and read by nothing


@pytest.mark.parametrize("stored", STORED, ids=lambda path: path.parent.name)
def test_a_stored_record_keeps_every_key_and_figure(stored: Path) -> None:
    before = json.loads(stored.read_text(encoding="utf-8"))
    after = RunDirectory(stored.parent).record().to_json()
    before["model"].pop("path", None)
    expected = {"experiment": "prefill"} | {
        former.RECORD_KEYS.get(k, k): v for k, v in before.items() if k not in DROPPED
    }
    expected["config"] = former_options.rename(expected["config"])
    if profiles := expected.get("profile"):
        expected["profile"] = [p | {"arm": former.ARMS.get(p["arm"], p["arm"])} for p in profiles]
    if errors := expected.get("logits_error"):
        expected["logits_error"] = {former.ARMS.get(arm, arm): error for arm, error in errors.items()}
    assert after == expected | {"schema_version": 2}
    assert RunRecord.parse(after) == RunRecord.parse(before), "what is converted is read again"


def test_first_tokens_that_were_by_engine_have_a_name_of_their_own() -> None:
    tokens = {"vLLM": {"all inputs": [4, 2]}}
    record = run_record(experiment="memory", first_tokens=tokens, schema_version=1)
    assert (record.tokens_by_stage, record.first_tokens) == (tokens, None)


def test_a_whole_prefill_s_no_cache_wrote_no_cache_and_kvcache_s_keeps_its_name() -> None:
    prefill = Cell("end_to_end", "prefill", "vLLM", "no_cache", 1, 16, None, "captured")
    cells = [prefill, replace(prefill, stage="variant"), replace(prefill, kernel="generation")]
    lines = [json.dumps(Result(cell, "s", Status.OK).to_json()) for cell in cells]
    arms = [Result.parse(line).cell.arm for line in lines]
    assert arms == ["no_write", "no_write", "no_cache"]


def nested(depth: int) -> list[Any]:
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


JUNK: list[tuple[dict[str, Any], str]] = [
    ({"device": "a GPU"}, "device: "),
    ({"device": {"name": "a GPU"}}, "device.kind: is missing"),
    ({"model": {"name": ["gpt2"]}}, "model.name: "),
    ({"status": "done"}, "status: "),
    ({"engine_start_s": math.nan}, "engine_start_s: .* finite"),
    ({"engine_start_s": 10**400}, "engine_start_s: "),
    ({"engine_start_s": -1.0}, "engine_start_s: "),
    ({"layers": [True]}, "layers.0: "),
    ({"layers": "all"}, "layers: "),
    ({"config": {"length": {"tokens": 3}}}, "config.length: must be a value or a list"),
    ({"config": {"length": math.inf}}, "config.length: must be finite"),
    ({"block_ids": {"1": ["0-2000000000"]}}, "block_ids.1.0: 2000000001 blocks"),
    ({"block_ids": {"1": ["../.."]}}, "block_ids.1.0: must be ranges"),
    ({"notices": ["\ud800"]}, "half a character"),
    ({"notices": nested(100_000)}, "nested too deeply"),
    ({"surprise": 1}, "surprise: is not a key"),
    ({"schema_version": "2"}, "schema_version: must be a number"),
]


@pytest.mark.parametrize(("facts", "told"), JUNK, ids=[told for _, told in JUNK])
def test_a_record_that_is_none_is_one_line_with_the_key(facts: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as error:
        run_record(facts)
    assert "\n" not in str(error.value)


def test_what_a_key_is_called_is_shown_without_what_a_terminal_obeys() -> None:
    with pytest.raises(ValueError, match=r"^\?\[31mred\?\?+x+\.\.\.$") as error:
        run_record({"\x1b[31mred\n\x07" + 500 * "x": 1})
    assert len(str(error.value)) < 150


@pytest.mark.parametrize("junk", ["[]", "{", '"running"', "{}", "\xff", "9" * 5000, "[" * 200_000])
def test_a_file_that_holds_no_record_is_damaged_and_named(tmp_path: Path, junk: str) -> None:
    (tmp_path / "run.json").write_bytes(junk.encode("latin-1"))
    with pytest.raises(Damaged, match=rf"^{tmp_path}/run\.json: damaged \(") as error:
        RunDirectory.open(tmp_path).record()
    assert "\n" not in str(error.value)


def test_a_later_version_s_record_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(run_record().to_json() | {"schema_version": 3, "new": 1}))
    with pytest.raises(Damaged, match="schema_version 3: written by a newer version") as error:
        RunDirectory.open(tmp_path).record()
    assert "damaged" not in str(error.value)
    with pytest.raises(TooNew):
        RunRecord.parse({"schema_version": 9, "status": 1})


def test_a_key_that_is_none_cannot_be_set() -> None:
    record = run_record()
    with pytest.raises(ValueError, match="no attribute"):
        record.spread = 3  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="valid integer"):
        record.num_blocks = 1.5  # type: ignore[assignment]


POINT = (("batch_size", 4), ("share", 0.5), ("at", "end"))
LINE = Result(
    Cell("kernel", "f", "p", "paged", 4, 16, 0, "captured", POINT, "block_size=64", rank=1, request=2),
    "spread=4 layer=0",
    Status.OK,
    samples_us=[1.5, 2.0],
    readings={"net_bytes": [-3.0]},
)


def test_a_result_comes_back_from_its_line() -> None:
    line = LINE.to_json()
    assert line["cell"]["point"] == {"batch_size": 4, "share": 0.5, "at": "end"}
    again = Result.parse(json.dumps(line))
    assert again == LINE
    assert hash(again.cell) == hash(LINE.cell)


def test_a_line_of_before_a_field_was_added_is_read() -> None:
    result = Result(Cell("kernel", "f", "p", "dense", 1, 16, 0, "captured"), "s", Status.OK)
    line = result.to_json()
    for later in ("clock_mhz", "stopped", "seed", "readings"):
        del line[later]
    for later in ("point", "variant", "request"):
        del line["cell"][later]
    assert Result.parse(json.dumps(line)) == result


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"samples_us": [1.0, math.nan]}, r"samples_us\.1: .*finite"),
        ({"samples_us": [math.inf]}, r"samples_us\.0: "),
        ({"samples_us": [-1.0]}, r"samples_us\.0: "),
        ({"samples_us": [1e308]}, r"samples_us\.0: "),
        ({"samples_us": [10**400]}, r"samples_us\.0: "),
        ({"samples_us": "1.5"}, "samples_us: "),
        ({"samples_us": [True]}, r"samples_us\.0: "),
        ({"readings": {"x": [math.nan]}}, r"readings\.x\.0: "),
        ({"status": "fine"}, "status: "),
        ({"series_size": -1}, "series_size: "),
        ({"surprise": 1}, "surprise: is not a key"),
        ({"series": "\ud800"}, "Invalid JSON"),
        ({"cell": LINE.to_json()["cell"] | {"spread_k": -1}}, r"cell\.spread_k: "),
        ({"cell": LINE.to_json()["cell"] | {"block_size": 10**12}}, r"cell\.block_size: "),
        ({"cell": LINE.to_json()["cell"] | {"point": {"a": [1]}}}, r"cell\.point"),
        ({"cell": 1}, "cell: "),
    ],
)
def test_a_line_that_is_no_result_says_why(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.append([LINE])
    with run.samples_path.open("a") as file:
        file.write(json.dumps(LINE.to_json() | changes) + "\n")
    with pytest.raises(Damaged, match=rf"samples\.jsonl, line 2: not a result \({told}") as error:
        run.results()
    assert "\n" not in str(error.value)
