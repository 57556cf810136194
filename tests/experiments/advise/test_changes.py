"""What a change means to vLLM, which go together, and which are not worth an engine."""

from __future__ import annotations

from dataclasses import replace

import pytest

import patches
from harness.config import ConfigError
from harness.experiments.advise import changes
from harness.experiments.advise.changes import Base, Change
from harness.runs.schema import EngineSettings

SETTINGS = EngineSettings(
    block_size=16, max_model_len=513, max_num_batched_tokens=16384, max_num_seqs=1024, enforce_eager=False,
    prefix_caching=True, async_scheduling=True, flash_attn_version=3, attention_backend=["FLASH_ATTN"],
    cudagraph_capture_sizes=[1, 2, 4, 8, 512],
)  # fmt: skip
BASE = Base(
    SETTINGS, {"compilation_config": {"level": 3}}, [512] * 100, on_gpu=True, compute_capability="9.0"
)


TRITON = replace(BASE, arguments={"attention_backend": "TRITON_ATTN"})


def arguments(*names: str, base: Base = BASE) -> changes.Arguments:
    return changes.arguments([change for name in names for change in changes.parse(name)], base)


def with_settings(**more: object) -> Base:
    return replace(BASE, settings=SETTINGS.model_copy(update=more))


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("block-size=64", {"block_size": 64}),
        ("tokens=8192", {"max_num_batched_tokens": 8192}),
        ("prefix-caching", {"enable_prefix_caching": False}),
        ("async", {"async_scheduling": False}),
        ("flash-attn=2", {"attention_config": {"flash_attn_version": 2}}),
        ("plugin-step", {"enable_prefix_caching": False, "enable_chunked_prefill": False}),
    ],
)
def test_a_change_is_just_what_it_says(name, found):
    assert arguments(name) == found


def test_the_plugin_gets_steps_that_take_the_longest_prompt():
    short = with_settings(max_num_batched_tokens=256)
    assert arguments("plugin-nocache", base=short)["max_num_batched_tokens"] == 513
    assert arguments("plugin-nocache", "tokens=300", base=short)["max_num_batched_tokens"] == 513
    assert arguments("plugin-nocache", "tokens=2048", base=short)["max_num_batched_tokens"] == 2048


def test_graphs_cover_every_step_and_keep_the_user_s_other_settings():
    """Steps are full where prompts are cut, hold 32 prompts where not, and end with what is left."""
    base = replace(BASE, lengths=[500] * 100)
    found = arguments("graphs", base=base)["compilation_config"]
    assert found == {"level": 3, "cudagraph_capture_sizes": [1, 504, 848, 2000, 16000, 16384]}
    found = arguments("graphs", "tokens=512", base=base)["compilation_config"]
    assert found["cudagraph_capture_sizes"] == [1, 336, 504, 512]


def test_graphs_of_many_lengths_are_few_and_the_largest_is_among_them():
    mixed = replace(BASE, lengths=[*range(1, 500)])
    sizes = changes.graph_sizes(mixed, 16384)
    assert len(sizes) <= changes.MOST_GRAPHS
    assert sizes[-1] == 16384
    assert all(size % 8 == 0 for size in sizes[1:])


def test_a_step_has_no_more_prompts_than_seats():
    seats = replace(with_settings(max_num_seqs=3), lengths=[8] * 7)
    assert changes.graph_sizes(seats, 16384) == [1, 8, 24]


def test_names_without_a_value_stand_for_the_usual_ones_but_stock_s_own():
    names = [
        name for knob in ("tokens", "block-size", "flash-attn", "graphs") for name in changes.parse(knob)
    ]
    assert [change.name for change in changes.spell_out(names, BASE)] == [
        "tokens=8192", "tokens=32768", "block-size=64", "block-size=128", "flash-attn=2", "graphs",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "base", "reason"),
    [
        (Change("graphs"), replace(BASE, on_gpu=False), "need a GPU"),
        (Change("graphs"), with_settings(enforce_eager=True), "--enforce-eager leaves graphs out"),
        (Change("graphs"), with_settings(cudagraph_capture_sizes=[1, 16384]), "of up to 16384 tokens, cover"),
        (Change("full-graphs"), replace(BASE, compute_capability="8.0"), "need flash attention 3"),
        (Change("full-graphs"), with_settings(enforce_eager=True), "--enforce-eager leaves graphs out"),
        (Change("flash-attn", 3), replace(BASE, compute_capability="8.0"), "compute capability 9"),
        (Change("flash-attn", 2), with_settings(flash_attn_version=None), "attention is FLASH_ATTN"),
        (Change("tokens", 32768), replace(BASE, lengths=[512]), "all 512 tokens fit into one step"),
        (Change("block-size", 16), BASE, "it is what stock has"),
    ],
)
def test_what_is_not_worth_an_engine_says_why(change, base, reason):
    assert reason in changes.why_not(change, base)


def test_the_others_are_tried():
    for change in (Change("graphs"), Change("flash-attn", 2), Change("tokens", 8192), Change("plugin-step")):
        assert changes.why_not(change, BASE) is None


def test_of_a_kind_the_best_goes_together_with_others_and_no_cache_with_a_plugin():
    best_first = [Change("plugin-step"), Change("block-size", 64), Change("plugin-nocache"),
                  Change("prefix-caching"), Change("block-size", 128), Change("graphs")]  # fmt: skip
    together = [change.name for change in changes.combine(best_first)]
    assert together == ["plugin-step", "block-size=64", "graphs"]


def test_the_command_can_be_typed():
    line = changes.serve_line("my model", {"max_model_len": 513} | arguments("plugin-step"), "step")
    assert line == (
        "VLLM_PREFILL_ONLY=step vllm serve 'my model' --max-model-len 513 --no-enable-prefix-caching "
        "--no-enable-chunked-prefill"
    )


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("graph", "--candidates graph: no such change; the nearest is graphs, of graphs, full-graphs, "),
        ("graphs=2", "--candidates graphs=2: tokens, flash-attn, block-size take a whole number from 1 on, "),
        ("tokens=x", "--candidates tokens=x: tokens, flash-attn, block-size take a whole number from 1 on, "),
    ],
)
def test_a_change_that_there_is_not_is_refused_in_one_line(name, problem):
    with pytest.raises(ConfigError) as refused:
        changes.parse(name)
    assert str(refused.value).startswith(problem)


@pytest.mark.parametrize(
    ("names", "version", "base", "mode"),
    [
        (["graphs", "plugin-nocache"], "0.33.0", BASE, "FULL"),
        (["graphs", "plugin-step"], "0.33.0", BASE, None),
        (["full-graphs"], "0.33.0", BASE, "FULL"),
        (["graphs", "plugin-nocache"], "0.31.1", BASE, None),
        (["graphs", "plugin-nocache"], "0.33.0", replace(BASE, compute_capability="10.0"), None),
        (["graphs", "plugin-nocache", "flash-attn=2"], "0.33.0", BASE, None),
        (["graphs", "plugin-nocache"], "0.33.0", TRITON, None),
    ],
)  # fmt: skip
def test_graphs_are_full_where_asked_or_without_a_cache_if_the_kernel_allows_it(
    names, version, base, mode, monkeypatch
):
    monkeypatch.setattr(patches, "installed_vllm", lambda: f"vllm {version}")
    assert arguments(*names, base=base)["compilation_config"].get("cudagraph_mode") == mode
