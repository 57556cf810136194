"""From a sweep's YAML file to its points: what is run, in which order, under which names."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness.config import ConfigError
from harness.experiments import starting
from harness.experiments.prefill.options import RunConfig
from harness.sweep import plan

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def read(tmp_path):
    def reader(text: str) -> plan.Plan:
        file = tmp_path / "sweep.yaml"
        file.write_text(text)
        return plan.read(file)

    return reader


def test_the_product_of_the_lists_over_what_all_have(read):
    found = read("base: {model: gpt2, seed: 3}\ngrid: {length: [128, 256], block_size: [32, 64]}")
    assert [point.options for point in found.points] == [
        {"model": "gpt2", "seed": 3, "length": length, "block_size": block}
        for length in (128, 256)
        for block in (32, 64)
    ]
    assert found.varies == ("length", "block_size")
    assert [point.name for point in found.points][:2] == [
        "1_length-128_block-size-32",
        "2_length-128_block-size-64",
    ]


def test_processes_run_every_point_again_with_the_next_seed_one_round_after_another(read):
    found = read("base: {model: gpt2, seed: 3}\ngrid: {length: [128, 256]}\nprocesses: 2")
    assert [(point.options["seed"], point.options["length"]) for point in found.points] == [
        (3, 128), (3, 256), (4, 128), (4, 256),
    ]  # fmt: skip
    assert sorted(found.varies) == ["length", "seed"]
    alone = read("base: {model: gpt2}\nprocesses: 5")
    assert [point.options["seed"] for point in alone.points] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("processes", ["0", "101", "2.5", "true", "many"])
def test_what_is_no_number_of_processes_is_refused(read, processes):
    with pytest.raises(ConfigError, match=r"processes \S+: must be a number from 1 to 100"):
        read(f"base: {{model: gpt2}}\ngrid: {{length: [1]}}\nprocesses: {processes}")


@pytest.mark.parametrize("file", ["base: {seed: '1'}", "base: {seed: [1]}", "grid: {seed: [0, 1]}"])
def test_processes_count_from_one_seed_on(read, file):
    with pytest.raises(ConfigError, match="processes 2: take seeds from one number on, not from"):
        read(f"{file}\nprocesses: 2")


def test_several_grids_come_one_after_the_other(read):
    found = read("grid: [{model: [a/b], length: [1, 2]}, {model: [/c/d], spread_k: [[1, 4]]}]")
    assert [point.name for point in found.points] == ["1_b_length-1", "2_b_length-2", "3_d_spread-k-1-4"]
    assert found.varies == ("model", "length", "spread_k")
    assert found.values(found.points[2]) == {"model": "/c/d", "length": None, "spread_k": [1, 4]}


def test_a_grid_overrules_base_and_null_leaves_an_option_to_the_main_job(read):
    found = read("base: {flash_attn_version: 2}\ngrid: {flash_attn_version: [null, 3]}")
    assert [point.options["flash_attn_version"] for point in found.points] == [None, 3]
    assert [point.name for point in found.points] == ["1", "2_flash-attn-version-3"]


@given(
    st.dictionaries(
        st.sampled_from(sorted(set(RunConfig.model_fields) - set(plan.OWN))),
        st.lists(st.integers() | st.text() | st.lists(st.integers()), min_size=1, max_size=3, unique_by=repr),
        min_size=1,
        max_size=4,
    )
)
def test_every_combination_once_each_in_a_directory_of_its_own(tmp_path_factory, grid):
    file = tmp_path_factory.mktemp("plan") / "sweep.yaml"
    file.write_text(yaml.safe_dump({"grid": grid}, allow_unicode=True))
    found = plan.read(file)
    count = 1
    for values in grid.values():
        count *= len(values)
    assert len(found.points) == count
    assert len({point.name for point in found.points}) == count
    assert all("/" not in point.name and len(point.name) < 200 for point in found.points)
    assert set(found.varies) == {name for name, values in grid.items() if len(values) > 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gird: {length: [1]}", "gird: unknown key; a sweep has base and grid"),
        ("base: {length: 1}", "grid: must hold options, e.g. length"),
        ("grid: {lenght: [1]}", "grid: lenght: unknown option; the nearest is length"),
        ("base: {lenght: 1}\ngrid: {length: [1]}", "base: lenght: unknown option; the nearest is length"),
        ("grid: {length: 1}", "grid: length: 1: must be a list of values"),
        ("grid: {length: []}", "grid: length: []: must be a list of values"),
        ("grid: {output_dir: [a, b]}", "grid: output_dir: the sweep sets this itself"),
        ("grid: {length: [1, 2, 1]}", "grid: the same point twice (length 1)"),
        ("grid: [1", "not YAML"),
        ("grid: []", "grid: must hold options, e.g. length"),
        ("grid: [[]]", "grid: must hold options, e.g. length"),
        (
            f"grid: {{length: {list(range(1, 1001))}, seed: {list(range(1000))}}}",
            "1000000 points; a sweep has at most",
        ),
        (f"grid: {{length: {list(range(1, 101))}}}\nprocesses: 100", "10000 points; a sweep has at most"),
        ("grid: {seed: [1]}\ngrid: {seed: [2]}", "line 2: grid: is there twice"),
    ],
)
def test_a_file_that_is_no_sweep_is_refused(read, text, message):
    with pytest.raises(ConfigError) as error:
        read(text)
    assert message in str(error.value)


def test_all_that_is_wrong_with_the_points_is_told_at_once(read):
    found = read("base: {model: gpt2}\ngrid: {length: [0, 128], block_size: [32, 48], timer: [auto, events]}")

    def problem_of(options):
        try:
            starting.check("prefill", options, "cpu")
        except ConfigError as error:
            return str(error)
        return None

    with pytest.raises(ConfigError) as error:
        plan.check(found, problem_of)
    told = str(error.value)
    assert "--length 0: must be at least 1 (4 of 8 points)" in told
    assert "--timer events: not on a CPU; take auto or perf_counter (1 of 8 points)" in told
    assert "--block-size 48: must be a multiple of 32 for CPU_ATTN; take 64 (1 of 8 points)" in told


STUDY = [(f"study/{path.name}", "cuda") for path in sorted((ROOT / "configs" / "study").glob("*.yaml"))]


@pytest.mark.parametrize(("file", "kind"), [("sweep.yaml", "cuda"), ("cpu-sweep.yaml", "cpu"), *STUDY])
def test_the_examples_can_run(file, kind):
    for point in plan.read(ROOT / "configs" / file).points:
        starting.check("prefill", dict(point.options), kind)
