"""Tables of other engines. Expected texts anew: `python -m tests.variant_fixtures`, then read the diff."""

from __future__ import annotations

from dataclasses import replace

from harness.experiments.prefill.end_to_end_tables import engine_tables as tables
from harness.experiments.prefill.end_to_end_tables import label
from harness.experiments.prefill.summary import summarise
from harness.experiments.prefill.view import document
from harness.runs.record import Status
from tests.fixtures import DATA, gpu_account
from tests.variant_fixtures import variant_record, variant_results, variant_tables


def test_the_tables_are_exactly_the_expected_texts() -> None:
    found = variant_tables()
    assert found.screen_summary() + "\n" == (DATA / "variants.txt").read_text(encoding="utf-8")
    assert found.markdown() == (DATA / "variants.md").read_text(encoding="utf-8")


def test_the_screen_is_80_columns_wide_also_where_prefills_take_long() -> None:
    slow = [replace(r, samples_us=[s * 100 for s in r.samples_us]) for r in variant_results()]
    for results in (variant_results(), slow):
        text = document(variant_record(), summarise(variant_record(), results)).screen_summary()
        assert max(map(len, text.splitlines())) <= 80


def test_an_engine_that_did_not_fit_says_so_in_its_line() -> None:
    text = variant_tables().screen_summary()
    assert "block size 256" in text
    assert "out_of_memory [" in text
    assert "CUDA out of memory" in text


def test_without_a_second_baseline_the_footnote_says_that_the_floor_is_not_known() -> None:
    alone = [r for r in variant_results() if not r.control]
    screen = tables(summarise(variant_record(), alone))[0].screen()
    assert "not known, as there is no A/A" in " ".join(screen.split())


def test_if_no_engine_ran_there_are_reasons_and_no_empty_table() -> None:
    lost = [replace(r, status=Status.ERROR, reason="no", samples_us=[]) for r in variant_results()]
    (table,) = tables(summarise(variant_record(), lost))
    assert table.screen().count("error [1]") == 6


def test_a_run_without_variants_has_no_such_tables() -> None:
    assert gpu_account()[1]["variants"] == []
    assert tables(gpu_account()[1]) == []
    assert tables({}) == [], "a summary of before there were variants"


def test_labels_are_short() -> None:
    names = ("baseline again", "block_size=64", "flash_attn_version=2", "attention_backend=TRITON_ATTN")
    assert [label(name) for name in names] == ["baseline again", "block size 64", "FA2", "TRITON_ATTN"]
