"""What is made of a run of `backends`: who wins, where it turns compute-bound."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.experiments.backends import scaling as backends_scaling
from harness.experiments.backends.rows import BackendCell
from tests.made_up.backends import BATCHES, LENGTHS, LOST, record, results
from tests.made_up.views import charts_of, document_from, document_of, pair, summary_of


@pytest.fixture(scope="module")
def summary():
    return summary_of(record(), results())


def test_every_cell_has_a_row_and_what_was_lost_has_a_status(summary):
    rows = list(csv.DictReader(io.StringIO(document_from(record(), summary).csv())))
    rows = [row for row in rows if row["stage"] != "contrast"]
    assert len(rows) == 5 * len(BATCHES) * len(LENGTHS)
    assert sum(row["status"] != "ok" for row in rows) == len(LOST)
    assert {row["tokens_per_s"] for row in rows if row["status"] != "ok"} == {""}


def test_throughput_is_of_all_prompts_and_attention_alone_of_all_layers(summary):
    rows = {(row["backend"], row["batch_size"], row["input_len"]): row for row in summary["cells"]}
    engine, alone = rows["FLASH_ATTN", 4, 512], rows["sdpa.math", 4, 512]
    assert engine["tokens_per_s"] == pytest.approx(4 * 512 / engine["median_us"] * 1e6)
    assert alone["tokens_per_s"] == pytest.approx(4 * 512 / 12 / alone["median_us"] * 1e6)
    low, high = engine["ci95_tokens_per_s"]
    assert low < engine["tokens_per_s"] < high


def test_decoding_counts_the_tokens_of_its_steps():
    decoding = summary_of(record(output_len=5), results())
    rows = {(row["backend"], row["batch_size"], row["input_len"]): row for row in decoding["cells"]}
    engine, alone = rows["FLASH_ATTN", 4, 512], rows["sdpa.math", 4, 512]
    assert engine["tokens_per_s"] == pytest.approx(4 * (5 - 1) / engine["median_us"] * 1e6)
    assert alone["tokens_per_s"] == pytest.approx(4 / 12 / alone["median_us"] * 1e6)
    shown = document_from(record(output_len=5), decoding).screen_summary()
    assert "Decoding, batch size 4: tokens/s" in shown


def test_the_winner_is_an_engine_and_its_speed_up_is_computed(summary):
    rows = {(row["batch_size"], row["input_len"]): row for row in summary["winners"]}
    assert (16, 2048) not in rows  # nothing was measured there
    assert rows[1, 1]["winner"] == "TRITON_ATTN"
    found = rows[4, 2048]
    assert (found["winner"], found["second"]) == ("FLASH_ATTN", "TRITON_ATTN")
    low, high = found["ci95_speed_up"]
    assert low < found["speed_up"] < high
    assert found["speed_up"] == pytest.approx(1.4, rel=0.01)
    assert found["verdict"] == "faster"


def test_a_verdict_takes_in_what_two_engines_of_one_backend_differ_by():
    """A speed-up of 1.26 whose second engine of FLASH_ATTN is slower than its first by 0.4%, 20% or 30%."""
    found = {}
    for slower in (1.0, 1.2, 1.3):
        twins = [
            replace(r, samples_us=[slower * us for us in r.samples_us])
            if r.series == "FLASH_ATTN again"
            else r
            for r in results()
        ]
        summary = summary_of(record(), twins)
        rows = {(row["batch_size"], row["input_len"]): row for row in summary["winners"]}
        found[slower] = rows[1, 512]
    assert [row["verdict"] for row in found.values()] == ["faster", "faster", "unclear"]
    assert found[1.0]["noise_floor_pct"] < 2
    assert found[1.3]["noise_floor_pct"] == pytest.approx(30.5, abs=1.0)
    assert found[1.3]["ci95_speed_up"] == found[1.0]["ci95_speed_up"]


def test_without_two_engines_of_one_backend_no_verdict_is_given(summary):
    rows = {(row["batch_size"], row["input_len"]): row for row in summary["winners"]}
    assert (rows[16, 512]["noise_floor_pct"], rows[16, 512]["verdict"]) == (None, "unclear")
    lost = next(row for row in summary["engines_again"] if (row["batch_size"], row["input_len"]) == (16, 512))
    assert (lost["status"], lost["n"], lost["ratio"]) == ("out_of_memory", 0, None)
    alone = summary_of(record(), [r for r in results() if r.series != "FLASH_ATTN again"])
    assert alone["engines_again"] == []
    assert {row["verdict"] for row in alone["winners"]} == {"unclear"}
    assert "A/A was not measured" in document_from(record(), alone).screen_summary()


def test_one_layer_is_singular():
    one = record() | {"model": record()["model"] | {"num_layers": 1}}
    assert "Q, K and V, 1 layer: compare" in " ".join(document_of(one, results()).screen_summary().split())


def test_where_q_k_and_v_are_from_is_said_of_every_cell(summary):
    rows = list(csv.DictReader(io.StringIO(document_from(record(), summary).csv())))
    random = [row for row in rows if row["data"] == "synthetic"]
    assert {(row["batch_size"], row["input_len"]) for row in random} == {("4", "1")}
    assert all(row["reason"].startswith("random Q, K and V: ") for row in random)


def line(times, spread=0.0, n=12, steps=()):
    """Cells of one engine and length: (batch size, median), each with an interval of +-spread (a share)."""
    found = []
    for batch, us in times:
        bounds = (us * (1 - spread), us * (1 + spread)) if n >= 6 else None
        figures = {"median_us": us, "ci95_us": bounds, "n": n, "status": "ok"}
        name = {"backend": "FLASH_ATTN", "input_len": 512, "batch_size": batch}
        steps_of = {"prefill_steps": dict(steps).get(batch, 1)}
        found.append(BackendCell.model_construct(**name | figures | steps_of))
    return found


def turn(*args, **kwargs):
    cells = line(*args, **kwargs)
    (row,) = backends_scaling.compute_bound(cells, backends_scaling.exponents(cells))
    return row.batch_size, row.reason


@pytest.mark.parametrize(
    ("timed", "turns"),
    [
        ([(1, 10.0), (2, 10.0), (4, 20.0), (8, 40.0)], (2, None)),
        ([(1, 10.0), (2, 20.0), (4, 20.0), (8, 40.0)], (4, None)),  # before a plateau: does not count
        ([(1, 10.0), (2, 11.0), (4, 13.0)], (None, backends_scaling.NOT_HERE)),
        ([(1, 10.0), (4, 40.0)], (1, None)),
        ([(1, 10.0)], (None, backends_scaling.NO_PAIR)),
    ],
)
def test_compute_bound_is_where_time_grows_with_the_batch_up_to_the_end(timed, turns):
    assert turn(timed) == turns


def test_what_the_intervals_do_not_show_is_not_called_compute_bound():
    timed = [(1, 10.0), (2, 20.0), (4, 40.0)]
    assert turn(timed, spread=0.03) == (1, None)
    assert turn(timed, spread=0.5) == (None, backends_scaling.UNCLEAR)
    assert turn(timed, n=5) == (None, backends_scaling.NO_INTERVAL)
    power, _ = backends_scaling.exponents(line(timed, spread=0.5))
    assert power.exponent == pytest.approx(1.0)
    assert power.ci95_exponent == pytest.approx([1 - math.log2(3), 1 + math.log2(3)])


def test_prefills_that_are_split_do_not_decide():
    timed = [(1, 10.0), (2, 11.0), (4, 22.0), (8, 44.0)]
    assert turn(timed) == (2, None)
    assert turn(timed, steps=[(4, 2), (8, 4)]) == (None, backends_scaling.NOT_HERE)
    assert turn(timed, steps=[(2, 2), (4, 4), (8, 8)]) == (None, backends_scaling.NO_PAIR)


def test_cells_know_in_how_many_steps_an_engine_prefills_them(summary):
    steps = {(r["backend"], r["batch_size"], r["input_len"]): r["prefill_steps"] for r in summary["cells"]}
    assert steps["FLASH_ATTN", 4, 512] == 1
    assert steps["FLASH_ATTN", 4, 2048] == 2
    assert steps["sdpa.math", 4, 2048] is None
    decoding = summary_of(record(output_len=5), results())
    assert {row["prefill_steps"] for row in decoding["cells"]} == {None}


@given(st.integers(0, 6), st.floats(1, 1e6))
def test_a_floor_and_a_slope_turn_where_they_meet(turns, floor):
    timed = [(2**n, max(floor, floor * 2 ** (n - turns))) for n in range(8)]
    assert turn(timed) == (2**turns, None)


def test_the_plot_has_a_line_a_backend_rings_and_crosses(summary):
    (sheet,) = charts_of(record(), results())
    lengths = sorted({row["input_len"] for row in summary["cells"]})
    turns = {(row["backend"], row["input_len"], row["batch_size"]) for row in summary["compute_bound"]}
    for tokens, chart in zip(lengths, sheet.charts, strict=True):
        lines = {line.key.label.removesuffix(" (attention alone)"): line.points for line in chart.lines}
        for row in (row for row in summary["cells"] if row["input_len"] == tokens):
            (point,) = (p for p in lines[row["backend"]] if p.x == row["batch_size"])
            assert (point.y, point.interval) == (row["tokens_per_s"], pair(row["ci95_tokens_per_s"]))
            assert point.ringed == ((row["backend"], tokens, row["batch_size"]) in turns)
            if not row["n"]:
                assert point.tip.lines[0].endswith(f": {row['status']}")
    keys = [key.label for chart in sheet.charts for key in chart.legend_keys()]
    assert {"compute-bound from here", "not measured"} <= {*keys}
