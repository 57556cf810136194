"""Configuration: precedence, what is refused and in which words, what resolving fills in."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import pytest

from harness.config import ConfigError, load
from harness.experiments import EXPERIMENTS
from harness.experiments.prefill.options import RunConfig, check_layers, resolve

FOLDER = Path(__file__).resolve().parents[2] / "configs"
CONFIGS = sorted(
    set(FOLDER.glob("*.yaml")) - set(FOLDER.glob("*sweep.yaml"))
)  # those have a test of their own


@pytest.fixture
def yaml_file(tmp_path):
    def write(text: str) -> Path:
        path = tmp_path / "job.yaml"
        path.write_text(text)
        return path

    return write


def test_the_command_line_wins_over_yaml_and_yaml_over_defaults(yaml_file):
    path = yaml_file("length: 512\nseed: 3\noutput_dir: out\nquiet: true")
    config = load(RunConfig, {"length": 64, "quiet": False}, path)
    assert (config.length, config.seed, config.quiet, config.model) == (64, 3, False, "gpt2")
    assert config.output_dir == Path("out")


def test_a_sweep_on_the_command_line_replaces_the_other_kind_of_sweep_in_yaml(yaml_file):
    regular = load(RunConfig, {"spread_min": 2}, yaml_file("spread_k: [1, 4]"))
    assert (regular.spread_k, regular.spread_min) == (None, 2)
    listed = load(RunConfig, {"spread_k": [1, 4]}, yaml_file("spread_min: 2\nspread_step: 2"))
    assert (listed.spread_k, listed.spread_min, listed.spread_step) == ([1, 4], None, None)


def test_an_empty_file_is_all_defaults(yaml_file):
    assert load(RunConfig, {}, yaml_file("# nothing")) == RunConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lenght: 5", "job.yaml: lenght: unknown key; the nearest is length"),
        ("block-size: 16", "job.yaml: block-size: unknown key; the nearest is block_size"),
        ("3: 5", "job.yaml: 3: unknown key; --help lists the options"),
        ("length: '5'", "job.yaml: length: 5: must be a whole number"),
        ("length: 5.0", "job.yaml: length: 5.0: must be a whole number"),
        ("length: true", "job.yaml: length: True: must be a whole number"),
        ("length:", "job.yaml: length: None: must be a whole number"),
        ("quiet: 1", "job.yaml: quiet: 1: must be true or false"),
        ("spread_k: 4", "job.yaml: spread_k: 4: must be a list of whole numbers"),
        ("spread_k: [1, two]", "job.yaml: spread_k: 1,two: must be a list of whole numbers"),
        ("spread_k: []", "job.yaml: spread_k: : must be a list of whole numbers"),
        ("layers: some", "job.yaml: layers: some: must be all or sample, or a list of whole numbers"),
        ("layers: [-1]", "job.yaml: layers: -1: must be at least 0"),
        ("output_dir: 5", "job.yaml: output_dir: 5: must be a path"),
        ("max_seconds: .inf", "job.yaml: max_seconds: inf: must be a number"),
        ("gap: wide", "job.yaml: gap: wide: must be shuffled or scattered"),
        ("precision: 0", "job.yaml: precision: 0: must be more than 0"),
        ("precision: .nan", "job.yaml: precision: nan: must be a number"),
        ("timer: clock", "job.yaml: timer: clock: must be auto, events, cupti or perf_counter"),
        ("l2: hot", "job.yaml: l2: hot: must be warm or cold"),
        ("spread_k: [1]\nspread_max: 4", "job.yaml: spread_max: 4: exclude each other; leave one out"),
        ("- length", "must hold lines like 'length: 4096'"),
        ("length: [", "job.yaml: not YAML: "),
    ],
)
def test_what_a_yaml_file_gets_wrong_is_named_with_its_place(yaml_file, text, message):
    with pytest.raises(ConfigError) as error:
        load(RunConfig, {}, yaml_file(text))
    assert message in str(error.value)


def test_everything_wrong_is_named_at_once(yaml_file):
    with pytest.raises(ConfigError) as error:
        load(RunConfig, {"length": 0}, yaml_file("seed: -1\nrepeats: 0"))
    assert str(error.value).startswith("--length 0: must be at least 1; ")
    assert "job.yaml: seed: -1: must be at least 0; " in str(error.value)
    assert str(error.value).endswith("job.yaml: repeats: 0: must be at least 1")


def test_a_missing_yaml_file_is_named():
    with pytest.raises(ConfigError, match=r"--config no\.yaml: No such file or directory"):
        load(RunConfig, {}, Path("no.yaml"))


@pytest.mark.parametrize(("kind", "block_size", "seconds"), [("cuda", 16, 45), ("cpu", 128, 60)])
def test_resolving_fills_in_what_depends_on_the_device(kind, block_size, seconds):
    config = resolve(RunConfig(model="org/some model", length=4096), kind)
    assert (config.block_size, config.max_seconds) == (block_size, seconds)
    assert config.output_dir.parent == Path("runs")
    assert config.output_dir.name.endswith("-some-model-4096")
    assert config.spreads()[-1] == config.num_blocks() == 4096 // block_size


def test_resolving_keeps_what_was_asked_for(tmp_path):
    asked = RunConfig(length=4096, block_size=64, max_seconds=5, spread_k=[1, 3], output_dir=tmp_path / "out")
    assert resolve(asked, "cpu") == asked


@pytest.mark.parametrize(("kind", "length"), [("cuda", 4096), ("cpu", 2048)])
def test_the_length_is_the_device_s_unless_given(kind, length):
    def resolved(**options):
        return resolve(load(RunConfig, options), kind)

    assert resolved().length == length
    assert resolved(length=4096).length == 4096
    assert resolved(batch="3x100,1x200").length == 200
    assert resolved(batch="1x4096,3x100").length == 4096


def test_a_cpu_sweeps_in_larger_steps_unless_told_how(tmp_path):
    def spreads(kind, **options):
        config = RunConfig(length=512, block_size=32, output_dir=tmp_path / "out", **options)
        return resolve(config, kind).spreads()

    assert spreads("cuda") == [1, 2, 4, 8, 16]
    assert spreads("cpu") == [1, 8, 16]
    assert spreads("cpu", spread_step=6) == [1, 7, 13]


@pytest.mark.parametrize(
    ("options", "kind", "eager"),
    [
        ({"length": 1}, "cuda", True),
        ({"batch": "3x1"}, "cuda", True),
        ({"length": 2}, "cuda", False),
        ({"batch": "3x1,1x2"}, "cuda", False),
        ({"length": 1}, "cpu", False),
    ],
)
def test_one_token_prompts_run_without_cuda_graphs(options, kind, eager):
    assert resolve(load(RunConfig, options), kind).enforce_eager is eager


@pytest.mark.parametrize(
    ("options", "kind", "l2"),
    [
        ({}, "cuda", "warm"),
        ({"l2": "cold", "timer": "cupti"}, "cuda", "cold"),
        ({"timer": "perf_counter"}, "cpu", None),
    ],
)
def test_the_cache_state_is_chosen_for_cuda_only(options, kind, l2):
    assert resolve(RunConfig(**options), kind).l2 == l2


@pytest.mark.parametrize(
    ("options", "spreads"),
    [
        ({}, [1, 2, 4, 8]),
        ({"spread_k": [8, 2, 2]}, [2, 8]),
        ({"spread_min": 3}, [3, 4, 5, 6, 7, 8]),
        ({"spread_max": 3}, [1, 2, 3]),
        ({"spread_min": 2, "spread_max": 7, "spread_step": 2}, [2, 4, 6]),
    ],
)
def test_spreads_of_eight_blocks(options, spreads):
    assert resolve(RunConfig(length=120, block_size=16, **options), "cuda").spreads() == spreads


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"spread_k": [1, 257]},
            "cuda",
            r"--spread-k 257: must be within 1\.\.256, .* 4096 .*--block-size 16",
        ),
        ({"spread_min": 17}, "cpu", r"--spread-min 17: must be within 1\.\.16, .* --block-size 128"),
        ({"spread_max": 17}, "cpu", r"--spread-max 17: must be within 1\.\.16"),
        ({"spread_min": 9, "spread_max": 3}, "cpu", "--spread-min 9: must not be above --spread-max 3"),
        ({"block_size": 8}, "cuda", "--block-size 8: must be a multiple of 16 for FLASH_ATTN; take 16"),
        ({"block_size": 48}, "cpu", "--block-size 48: must be a multiple of 32 for CPU_ATTN; take 64"),
        ({"max_num_batched_tokens": 4095}, "cuda", "--max-num-batched-tokens 4095: must be at least .* 4096"),
        ({"timer": "perf_counter"}, "cuda", "--timer perf_counter: not on CUDA; take auto or events"),
        ({"timer": "cupti"}, "cpu", "--timer cupti: not on a CPU; take auto or perf_counter"),
        ({"timer": "events"}, "cpu", "--timer events: not on a CPU; take auto or perf_counter"),
        ({"l2": "cold"}, "cpu", "--l2 cold: a CPU's caches are not controlled; leave it out"),
        ({"prompt_file": Path("no.txt")}, "cpu", r"--prompt-file no\.txt: no such file"),
        ({"resume": True, "overwrite": True}, "cpu", "--resume and --overwrite: exclude each other"),
        *(
            (
                {"from_captures": Path(folder), "output_dir": Path("run"), "overwrite": True},
                "cpu",
                "--overwrite: would remove the captures in run/captures",
            )
            for folder in ("run/captures", "run/captures/rank-0", "x/../run/captures/rank-1")
        ),
        (
            {"distributed_executor_backend": "mp"},
            "cuda",
            "--distributed-executor-backend mp: one rank runs in the main process; raise --tensor-parallel",
        ),
        (
            {"distributed_executor_backend": "ray", "tensor_parallel_size": 2},
            "cpu",
            "--distributed-executor-backend ray: vLLM has no Ray workers on a CPU; take mp",
        ),
        (
            {"attention_backend": "FLASH_ATTN"},
            "cpu",
            "--attention-backend FLASH_ATTN: a CPU has only CPU_ATTN",
        ),
        ({"flash_attn_version": 3}, "cpu", "--flash-attn-version 3: flash attention needs CUDA"),
    ],
)
def test_what_device_and_files_do_not_allow_is_refused(options, kind, message):
    with pytest.raises(ConfigError, match=message):
        resolve(RunConfig(**options), kind)


def test_ray_is_asked_for_before_anything_starts(monkeypatch):
    config = RunConfig(distributed_executor_backend="ray", tensor_parallel_size=2)
    monkeypatch.setitem(sys.modules, "ray", ModuleType("ray"))
    sys.modules["ray"].__spec__ = ModuleSpec("ray", None)
    assert resolve(config, "cuda") is not None
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"Ray is not installed; pip install ray==2\.60\.0, or take mp"):
        resolve(config, "cuda")


def test_another_backend_takes_other_block_sizes():
    config = RunConfig(block_size=8, attention_backend="FLEX_ATTENTION")
    assert resolve(config, "cuda").block_size == 8


def test_names_of_backends_are_vllm_s():
    assert resolve(RunConfig(attention_backend="triton_attn"), "cuda").attention_backend == "triton_attn"
    with pytest.raises(ConfigError, match=r"--attention-backends TRITON_ATN: .*nearest, TRITON_ATTN, "):
        resolve(RunConfig(attention_backends=["FLASH_ATTN", "TRITON_ATN"]), "cuda")


def test_a_directory_that_holds_a_run_is_refused_unless_told_otherwise(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"already holds a run; .*--overwrite"):
        resolve(RunConfig(output_dir=tmp_path), "cpu")
    resolve(RunConfig(output_dir=tmp_path, overwrite=True), "cpu")


def test_captures_do_without_an_engine_s_limits_but_not_without_the_sweep_s():
    captures = RunConfig(from_captures=Path("captures"), length=16, block_size=8)
    assert resolve(captures, "cuda").output_dir.name.endswith("-captures-16")
    with pytest.raises(ConfigError, match=r"--spread-k 100: must be within 1\.\.2,"):
        resolve(captures.model_copy(update={"spread_k": [100]}), "cpu")


def test_a_layer_the_model_does_not_have_is_refused():
    check_layers(RunConfig(layers=[0, 11]), 12)
    check_layers(RunConfig(layers="all"), 12)
    with pytest.raises(ConfigError, match=r"--layers 12,40: gpt2 has 12 layers; must be within 0\.\.11"):
        check_layers(RunConfig(layers=[0, 12, 40]), 12)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("kind", ["cuda", "cpu"])
def test_shipped_configurations_are_valid(path, kind):
    """A file named after an experiment is its, any other the main job's."""
    experiment = EXPERIMENTS.get(path.stem, EXPERIMENTS["prefill"])
    assert experiment.resolve(load(experiment.config, {}, path), kind)


def test_configurations_are_shipped():
    assert {path.stem for path in CONFIGS} >= {"gpt2-4096", "smollm2-135m", "llama-3-8b-16384", "cpu-smoke"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flash_attn_versions": [2]}, "--flash-attn-versions 2: flash attention needs CUDA; leave it out"),
        ({"attention_backends": ["X"]}, "--attention-backends X: a CPU has only CPU_ATTN; leave it out"),
        ({"cudagraph_modes": ["FULL"]}, "--cudagraph-modes FULL: CUDA graphs need a GPU; leave it out"),
        ({"cudagraph_modes": ["HALF"]}, "--cudagraph-modes HALF: must be among EAGER, NONE, PIECEWISE, FULL"),
        ({"cudagraph_mode": "NONE"}, "--cudagraph-mode NONE: CUDA graphs need a GPU; leave it out"),
        (
            {"cudagraph_mode": "PIECEWISE", "enforce_eager": True},
            "--enforce-eager has no graphs",
        ),
        ({"cudagraph_mode": "FULL"}, "list it in --cudagraph-modes"),
        ({"block_sizes": [128]}, "--block-sizes 128: is already the main run's value; choose another"),
    ],
)
def test_engines_that_a_cpu_cannot_run_or_that_are_the_main_job_s_own_are_refused(options, message):
    with pytest.raises(ConfigError) as error:
        resolve(load(RunConfig, options), "cpu")
    assert message in str(error.value)


def test_engines_beside_the_main_job_s_own(yaml_file):
    path = yaml_file(
        "block_sizes: [64, 16, 64]\nflash_attn_versions: [3, 2]\nattention_backends: [FLASHINFER]"
    )
    config = resolve(load(RunConfig, {}, path), "cuda")
    assert (config.block_sizes, config.flash_attn_versions) == ([16, 64], [2, 3])
    assert config.attention_backends == ["FLASHINFER"]
