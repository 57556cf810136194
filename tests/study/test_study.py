"""The study: small data out of finished runs, and a page that says what was found, and no more."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from harness.analysis import stats
from harness.sweep import plan
from study import collect, coverage, figures, findings, page, points
from study.points import Effect, Point
from tests.made_up.study import H100, H200, write_run

ROOT = Path(__file__).resolve().parents[2]
PLANS = ROOT / "configs" / "study"
DECIMALS = re.compile(r"(?<![\d.\w-])[-+]?\d+\.\d+(?![\d.]*\.\d)(?!\w)")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of an H100 and an H200, with effects that are known."""
    folder = tmp_path_factory.mktemp("study")
    runs = folder / "runs"
    write_run(runs / "a", paging_pct=12.0, fragmentation_pct=0.0, noise=0.02)
    write_run(runs / "b", block_size=128, spread_k=(1, 8, 32), paging_pct=1.0)
    write_run(runs / "c", model="llama-3-8b-1-layer", version=2, paging_pct=8.0, fragmentation_pct=6.0)
    write_run(runs / "d", model="gpt2", length=65536, spread_k=(1, 64, 4096), status="failed")
    write_run(runs / "e", device=H200, paging_pct=12.0, spread_k=(1, 16, 256))
    list(collect.collect([runs], folder / "data"))
    page.write(*points.read(folder / "data"), PLANS, folder)
    return folder


@pytest.fixture(scope="module")
def text(study: Path) -> str:
    return (study / "README.md").read_text()


def numbers(value: Any) -> Iterator[float]:
    """All numbers in a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield float(value)


def test_every_figure_on_the_page_is_in_a_summary(study: Path, text: str) -> None:
    known: set[float] = set()
    for file in study.glob("data/*/*/summary.json"):
        known.update(numbers(json.loads(file.read_text())))
    derived: set[float] = set()  # the one thing that the page computes
    for gather in findings.gathers(points.read(study / "data")[0]):
        derived.update(filter(None, (gather.uses, *(gather.uses_ci95 or ()))))
    without_versions = "\n".join(line for line in text.splitlines() if "NVIDIA" not in line)
    found = DECIMALS.findall(without_versions)
    assert len(found) > 100
    for figure in found:
        digits = len(figure.partition(".")[2])
        assert any(f"{abs(x):.{digits}f}" == figure.lstrip("+-") for x in known | derived), figure


def test_the_page_changes_with_the_data(study: Path, text: str, tmp_path: Path) -> None:
    shutil.copytree(study / "data", tmp_path / "data")
    file = next(tmp_path.glob("data/*/gpt2-4096-block128-fa3-3k/summary.json"))
    summary = json.loads(file.read_text())
    for row in summary["contrasts"]:
        if (row["baseline"], row["treatment"], row["kernel"] != "prefill") == ("dense", "paged@1", True):
            row |= {"delta_pct": 77.77, "ci95_pct": [77.11, 78.22]}
    file.write_text(json.dumps(summary))
    page.write(*points.read(tmp_path / "data"), PLANS, tmp_path)
    assert "+77.8% [+77.1, +78.2]" not in text
    assert "+77.8% [+77.1, +78.2]" in (tmp_path / "README.md").read_text()


def section(text: str, heading: str, device: str) -> str:
    """What the page says under a heading of a device."""
    under = text.partition(f"## {heading}")[2].partition("\n## ")[0]
    return under.partition(f"**{device}**")[2].partition("\n**H")[0]


def test_what_is_found_decides_on_the_sentences(text: str) -> None:
    h100, h200 = (section(text, "Does scrambling", device) for device in ("H100", "H200"))
    injected = r"Kernel: scrambling costs time beyond the noise floor in 1 of 3 points: \+(5\.9|6\.)"
    assert re.search(injected, h100)
    assert "(llama-3-8b at 4096 tokens, block size 16, FA2, 256 segments)" in h100
    assert "Kernel: no cost of scrambling beyond the noise floor was measured in any of 1 point;" in h200
    advice = {device: section(text, "What should a user", device) for device in ("H100", "H200")}
    assert "The order of blocks costs time beyond the noise floor in 1 of" in advice["H100"]
    assert "The order of blocks: no effect beyond the noise floor was measured" in advice["H200"]


def test_the_block_size_that_costs_less_is_advised(text: str) -> None:
    advice = section(text, "What should a user", "H100")
    assert re.search(r"gpt2 at 4096 tokens: 128, with a paging tax of \+\d.* at 16 it is \+1[12]\.", advice)
    assert "`--block-size`: no kernel was measured with two" in section(text, "What should a user", "H200")


def test_effects_under_the_noise_floor_are_called_that(text: str) -> None:
    rows = section(text, "Does scrambling", "H100").partition("Whole prefill, at the most segments")[2]
    noisy = next(line for line in rows.splitlines() if "| gpt2" in line and "|      16 |" in line)
    assert "below noise" in noisy or "unclear" in noisy
    assert "slower" not in noisy


def test_what_is_missing_is_said(study: Path, text: str, tmp_path: Path) -> None:
    assert "has been measured yet" not in text
    assert "OutOfMemoryError: CUDA out of memory." in text
    assert "failed: gpt2 at 65536 tokens, block size 16, FA3" in text
    assert "| `long.yaml` | 5 | 0 | 1 | 4 |" in text
    assert "qwen2.5-7b at 4096 tokens, block size 16, FA3" in text.partition("Missing of core.yaml")[2]
    one, _ = points.read(study / "data")
    page.write([p for p in one if p.device == H200], [], PLANS, tmp_path)
    alone = (tmp_path / "README.md").read_text()
    assert "**No H100 has been measured yet" in alone
    assert "## Two devices" not in alone


def test_points_beside_the_plan_are_named(tmp_path: Path) -> None:
    planned = write_run(tmp_path / "a", model="llama-3-8b-1-layer", version=2)
    other = write_run(tmp_path / "b", model="llama-3-8b-1-layer", version=2, length=1234, spread_k=(1, 8))
    list(collect.collect([planned, other], tmp_path / "data"))
    page.write(*points.read(tmp_path / "data"), PLANS, tmp_path)
    (line,) = (
        line for line in (tmp_path / "README.md").read_text().splitlines() if "beside the plan" in line
    )
    assert line.endswith(": llama-3-8b-1-layer at 1234 tokens, block size 16, FA2, 1, 8 segments.")


def test_a_kernel_alone_says_nothing_of_whole_prefills(study: Path) -> None:
    alone = [p for p in points.read(study / "data")[0] if p.model == "llama-3-8b-1-layer"]
    assert [len(findings.in_prefills(alone, "paging")), len(findings.paged_kernels(alone))] == [0, 1]
    assert alone[0].shape == "llama-3-8b"


def test_two_devices_are_set_side_by_side(text: str) -> None:
    beside = text.partition("## Two devices")[2]
    assert "1 point was measured on both H100 and H200" in beside
    assert "paging tax, H200" in beside


def test_figures_are_drawn_and_shown(study: Path, text: str) -> None:
    shown = re.findall(r"\(figures/(\S+\.png)\)", text)
    drawn = sorted(path.name for path in (study / "figures").iterdir())
    assert sorted(shown) == drawn
    assert {name.split("-")[0] for name in drawn} == {"breakdown", "gather", "paging", "spread"}
    for name in drawn:
        pixels = matplotlib.image.imread(study / "figures" / name)
        assert pixels.shape[1] > 400
        assert pixels[..., :3].std() > 0.05
        assert (study / "figures" / name).stat().st_size < 400_000


def test_kept_data_is_small_and_has_no_samples_and_no_paths(study: Path) -> None:
    files = list((study / "data").rglob("*.*"))
    assert {file.name for file in files if file.is_file()} == {"run.json", "summary.json"}
    for folder in (file.parent for file in files if file.name == "run.json"):
        content = "".join(file.read_text() for file in folder.iterdir())
        assert len(content.encode()) < collect.LARGEST_BYTES
        for word in ("samples_us", "block_ids", "/somewhere", "synthetic"):
            assert word not in content


def test_devices_are_drawn_on_one_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_run(tmp_path / "a", length=512, spread_k=(1, 8, 32), fragmentation_pct=9.0)
    write_run(tmp_path / "b", spread_k=(1, 16, 256))
    write_run(tmp_path / "c", device=H200, spread_k=(1, 16, 256), noise=0.02)
    list(collect.collect([tmp_path], tmp_path / "data"))
    found, _ = points.read(tmp_path / "data")
    drawn: dict[str, Figure] = {}
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **_: drawn.update({path.stem: figure}))
    figures.write({name: [p for p in found if p.device == name] for name in (H100, H200)}, tmp_path)
    one, two = (drawn[f"spread-{name}"] for name in ("nvidia-h100-80gb-hbm3", "nvidia-h200"))
    assert one.axes[0].get_ylim() == two.axes[0].get_ylim()
    assert one.axes[0].get_ylim()[1] > 9
    keys = [figure.legends[0] for figure in (one, two)]
    colours = [
        {
            text.get_text(): line.get_color()  # type: ignore[attr-defined]
            for text, line in zip(key.texts, key.legend_handles, strict=True)
        }
        for key in keys
    ]
    assert colours[0]["4096 tokens"] == colours[1]["4096 tokens"] != colours[0]["512 tokens"]
    one, two = (drawn[f"breakdown-{name}"] for name in ("nvidia-h100-80gb-hbm3", "nvidia-h200"))
    assert [a.get_xlim() for a in one.axes] == [a.get_xlim() for a in two.axes]


def test_of_kernels_alike_the_one_with_most_pairs_counts(study: Path) -> None:
    all_points, _ = points.read(study / "data")
    point = next(p for p in all_points if p.device == H200)
    longer = copy.deepcopy(point)
    for row in longer.summary["contrasts"]:
        row["n"] += 1
    for mine in ([point, longer], [longer, point]):
        (found,) = findings.scrambled_kernels(mine)
        assert found.point is longer


@pytest.mark.parametrize(
    ("effects", "sentence"),
    [
        ([], "Kernel: scrambling was not measured."),
        ([Effect(reason="oom")], "has no interval at any of 1 point: 1 not measured."),
        ([Effect(1.0, None, 0.2, 3)], "has no interval at any of 1 point: 1 too few rounds."),
        (
            [Effect(0.1, (-0.8, 0.9), 0.5, 9), Effect(reason="oom")],
            "no cost of scrambling beyond the noise floor was measured in any of 1 point; no interval "
            "reaches higher than that of +0.10% [-0.80, +0.90]",
        ),
        (
            [
                Effect(2.0, (1.8, 2.2), 0.5, 9),
                Effect(3.0, (2.8, 3.2), 0.5, 9),
                Effect(0.0, (-0.1, 0.1), 0.5, 9),
            ],
            "in 2 of 3 points, the largest: +3.00% [+2.80, +3.20]",
        ),
        (
            [Effect(-2.0, (-2.2, -1.8), 0.5, 9), Effect(2.0, (1.8, 2.2), 0.5, 9)],
            "in 1 of 2 points: +2.00% [+1.80, +2.20] (gpt2 at 4096 tokens, block size 16, FA3, 8 segments). "
            "The time is less with it in 1: -2.00% [-2.20, -1.80]",
        ),
    ],
)
def test_the_sentence_fits_what_was_found(study: Path, effects: list[Effect], sentence: str) -> None:
    point = next(p for p in points.read(study / "data")[0] if (p.shape, p.block_size) == ("gpt2", 16))
    found = [findings.Finding(point, 8, effect) for effect in effects]
    told = page.environment().get_template("sentences.md.j2").module.verdict_on  # type: ignore[attr-defined]
    assert sentence in " ".join(told(found, "Kernel", "scrambling", True).split())


def test_the_plan_s_points_and_times_are_those_of_its_files() -> None:
    table = re.findall(
        r"\| `(\S+\.yaml)` \| .* \| (\d+) \| (\d+) min \|", (ROOT / "docs" / "study.md").read_text()
    )
    assert sorted(name for name, _, _ in table) == sorted(path.name for path in PLANS.glob("*.yaml"))
    for name, count, minutes in table:
        options = [dict(point.options) for point in plan.read(PLANS / name).points]
        assert int(count) == len(options), name
        head = (PLANS / name).read_text().partition("base:")[0].replace("\n# ", " ")
        assert re.search(rf"\b{minutes} minutes", head), name
        assert re.search(rf"\b{count} points", head) or name == "core.yaml", name
        # Beside sampling, a point takes its engine's start, captures and profiles.
        sampling = sum(each["max_seconds"] for each in options) / 60
        assert sampling + 0.5 * len(options) <= int(minutes) <= sampling + 2.7 * len(options), name


def test_a_later_run_of_a_point_takes_its_place(tmp_path: Path) -> None:
    data = tmp_path / "data"
    kernel: dict[str, Any] = {"model": "gpt2-1-layer", "spread_k": (1, 4)}
    for name, day, paging in (("new", 5, 3.0), ("old", 4, 9.0)):
        write_run(tmp_path / name, started=f"2026-01-0{day}T00:00:00+00:00", paging_pct=paging, **kernel)
    said = list(collect.collect([tmp_path / "new", tmp_path / "old"], data))
    assert "kept in" in said[0]
    assert "has a later or a finished run" in said[1]
    (point,), _ = points.read(data)
    assert point.paging().pct == pytest.approx(3.0, abs=0.5)


def test_a_run_that_failed_gives_way_to_one_that_did_not(tmp_path: Path) -> None:
    data = tmp_path / "data"
    point: dict[str, Any] = {"model": "gpt2-1-layer", "spread_k": (1, 4)}
    write_run(tmp_path / "failed", status="failed", started="2026-02-01T00:00:00+00:00", **point)
    write_run(tmp_path / "finished", **point)
    for name, kept in (("failed", (0, 1)), ("finished", (1, 0)), ("failed", (1, 0))):
        list(collect.collect([tmp_path / name], data))
        assert tuple(map(len, points.read(data))) == kept


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": "interrupted"}, "its status is interrupted"),
        ({"experiment": "cache"}, "not the main job with an engine"),
        ({"config": {"batch": "4x1024"}}, "several prompts or several GPUs"),
        ({"config": {"tensor_parallel_size": 2}}, "several prompts or several GPUs"),
    ],
)
def test_other_runs_are_left_out(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    run = write_run(tmp_path / "run", model="gpt2-1-layer", spread_k=(1, 4))
    record = json.loads((run / "run.json").read_text())
    config = record["config"] | change.pop("config", {})
    (run / "run.json").write_text(json.dumps(record | change | {"config": config}))
    (said,) = collect.collect([run], tmp_path / "data")
    assert reason in said
    assert not (tmp_path / "data").exists()


def test_a_summary_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", model="gpt2-1-layer", spread_k=(1, 4))
    monkeypatch.setattr(collect, "LARGEST_BYTES", 1000)
    with pytest.raises(collect.CollectError, match=r"bytes of summary, the repository takes 1000 a point"):
        list(collect.collect([run], tmp_path / "data"))


def test_every_planned_point_is_found_again(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", model="llama-3-8b-1-layer", spread_k=(1, 16, 256), version=2)
    list(collect.collect([run], tmp_path / "data"))
    (point,), _ = points.read(tmp_path / "data")
    found = {row.file: row for row in coverage.coverage(PLANS, [point], [])}
    assert [found[name].measured for name in ("core.yaml", "kernel-spread.yaml", "long.yaml")] == [1, 0, 0]
    core = found["core.yaml"]
    assert core.planned == len(core.missing) + 1
    assert not any(
        name.startswith("llama-3-8b-1-layer at 4096 tokens, block size 16, FA2") for name in core.missing
    )


@pytest.mark.parametrize(
    ("pct", "interval", "floor", "judgement"),
    [
        (0.1, (-0.2, 0.3), 0.1, "same"),
        (3.0, (2.5, 3.5), 1.0, "slower"),
        (-3.0, (-3.5, -2.5), 1.0, "faster"),
        (0.9, (0.6, 1.2), 1.0, "below noise"),
        (0.9, (-0.6, 2.2), 1.0, "below noise"),
        (1.5, (0.9, 2.2), 1.0, "unclear"),
        (1.5, None, 1.0, "too few rounds"),
        (1.5, (0.9, 2.2), None, "too few rounds"),
        (None, None, None, "not measured"),
    ],
)
def test_what_an_effect_is_called(pct: Any, interval: Any, floor: Any, judgement: str) -> None:
    assert Effect(pct, interval, floor).judgement == judgement


@given(st.floats(-50, 50), st.floats(0, 5), st.floats(0, 5), st.floats(0, 10))
def test_nothing_within_the_noise_floor_is_slower_or_faster(
    pct: float, below: float, above: float, floor: float
) -> None:
    effect = Effect(pct, (pct - below, pct + above), floor)
    if abs(pct) <= floor:
        assert effect.judgement in ("same", "below noise")


@pytest.mark.parametrize("pairs", [6, 10, 100])
def test_equals_are_hardly_ever_called_slower_or_faster(pairs: int) -> None:
    rng = np.random.default_rng(23)
    wrong = 0
    for _ in range(1000):
        one, again, other = 100 + rng.standard_normal((3, pairs))
        floor = stats.noise_floor_pct(stats.paired_difference(one, again).ci95_pct)
        found = stats.paired_difference(one, other)
        wrong += Effect(found.delta_pct, found.ci95_pct, floor, pairs).judgement in ("slower", "faster")
    assert wrong <= 5  # of single intervals 21 to 35 leave zero out


def prefill(version: int, engine_ms: float, busy_pct: float) -> Point:
    """A whole prefill, of which no more is known than what it took and how busy the GPU was."""
    breakdown = {
        "engine_ms": engine_ms,
        "engine_ci95_ms": [0.99 * engine_ms, 1.01 * engine_ms],
        "host_bound": {"verdict": "", "gpu_busy_pct": busy_pct, "ci95_pct": None},
    }
    kernels = [{"arm": "dense", "provider": f"vLLM FA{version}"}]
    config = {"model": "gpt2", "length": 4096, "block_size": 16}
    record = {"config": config, "model": {"name": "gpt2"}}
    return Point(record, {"kernels": kernels, "attribution": breakdown})


@pytest.mark.parametrize(
    ("two", "three", "busy_pct", "certain"),
    [(110.0, 100.0, 95, [True]), (104.0, 100.0, 95, [False]), (7.0, 14.0, 50, []), (7.0, 14.0, 75, [])],
)
def test_versions_are_compared_where_the_step_waits_for_the_gpu(
    two: float, three: float, busy_pct: float, certain: list[bool]
) -> None:
    choices = findings.version_choices([prefill(2, two, busy_pct), prefill(3, three, busy_pct)])
    assert [(c.faster.attention, c.certain) for c in choices] == [("vLLM FA3", one) for one in certain]


def test_prefills_that_wait_for_the_gpu_are_told_apart() -> None:
    prefills = [findings.Finding(prefill(3, 10.0, busy), 1, Effect()) for busy in (95, 50, 75)]
    assert findings.by_step(prefills) == {"GPU-bound": prefills[:1], "host-bound or not known": prefills[1:]}
    assert findings.by_step([]) == {"GPU-bound": []}


@pytest.mark.parametrize(
    ("low", "alike"), [(9.0, True), (11.2, True), (11.4, False), (6.8, True), (6.6, False)]
)
def test_kernels_of_two_processes_are_alike_within_what_one_kernel_differs_by(
    low: float, alike: bool
) -> None:
    one, other = Effect(ci95_pct=(9.0, 10.0)), Effect(ci95_pct=(low, low + 1))
    assert findings.are_alike(one, other) == findings.are_alike(other, one) == alike


def gather(gather_us: float | None, saving_us: float, interval: tuple[float, float]) -> findings.Gather:
    return findings.Gather(Point({}, {}), 8, gather_us, saving_us, interval)


def test_when_a_gather_pays() -> None:
    assert gather(10, 20, (18, 22)).pays == "on the first use"
    assert gather(30, 20, (18, 22)).pays == "from 2 uses"
    assert gather(20, 20, (18, 22)).pays == "unclear on the first use"
    assert gather(20, -5, (-6, -4)).pays == "never: it saves nothing"
    assert gather(20, 1, (-1, 2)).pays == "unclear: the saving may be zero"
    assert gather(None, 20, (18, 22)).pays == "not measured"


def test_the_gather_s_own_interval_counts_where_it_is_known() -> None:
    known = findings.Gather(Point({}, {}), 8, 19.5, 20, (19.6, 20.4), (18.5, 20.5))
    assert gather(19.5, 20, (19.6, 20.4)).pays == "on the first use"
    assert (known.uses_ci95, known.pays) == ((18.5 / 20.4, 20.5 / 19.6), "unclear on the first use")


def test_a_new_run_keeps_the_gather_s_interval(study: Path) -> None:
    for found in findings.gathers(points.read(study / "data")[0]):
        assert found.gather_ci95_us is not None


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "study", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )


def test_the_command_takes_a_run_in_and_writes_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", model="gpt2-1-layer", spread_k=(1, 4))
    done = command(run, "--output", tmp_path / "study")
    assert done.returncode == 0, done.stderr
    assert "gpt2-1-layer-4096-block16-fa3-2k" in done.stdout
    assert (tmp_path / "study" / "README.md").is_file()


def test_without_data_one_line_says_what_to_do(tmp_path: Path) -> None:
    done = command("--output", tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "holds no points yet; name finished runs or sweeps" in done.stderr
    done = command(tmp_path, "--output", tmp_path)
    assert "holds no run.json; name a run's directory, or a sweep's" in done.stderr
