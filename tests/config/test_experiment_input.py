"""What experiments other than prefill refuse: in one line, with status 2, before anything heavy is
imported.
"""

from __future__ import annotations

import pytest

from harness.config import ConfigError, load
from harness.experiments.kernels.options import KernelsConfig
from tests.command_line import run_all

REFUSED = [
    ("kernels --length 64 --seq-len-q 65", "--seq-len-q 65: must be at most --length 64"),
    ("kernels --kernels sdpa-mat,fa4", "--kernels sdpa-mat: no such kernel; take one of the nearest, sdpa"),
    ("kernels --num-heads 4 --num-kv-heads 3", "--num-kv-heads 3: must divide --num-heads 4; take 2"),
    ("kernels --num-heads 4 --num-kv-heads 8", "--num-kv-heads 8: must divide --num-heads 4; take 4"),
    ("kernels --length 150 --block-size 16 --spread-k 11", "--spread-k 11: must be within 1..10"),
    ("kernels --timer cupti", "--timer cupti: not on a CPU"),
    (
        "transfer --ways copy_block",
        "--ways copy_block: must be one of contiguous, copy_blocks, copy_rising, ",
    ),
    ("transfer --directions host", "--directions host: must be one of to_host, to_gpu, to_peer; "),
    ("transfer --kv-layouts split", "--kv-layouts split: must be one of interleaved, stacked; "),
    ("transfer --layer-tensors all", "--layer-tensors all: must be one of apart, together; "),
    (
        "transfer --length 64 --block-size 16 --spread-k 5",
        "--spread-k 5: must be within 1..4, the number of ",
    ),
    ("transfer --segments-per-block 1.5", "--segments-per-block 1.5: must be at most 1"),
    ("transfer --l2 warm", "--l2 warm: a CPU's caches are not controlled; leave it out"),
    ("cache --max-num-batched-tokens 9", "--max-num-batched-tokens 9: must be at least 2048 (--prompts 4"),
    ("cache --shares 0,150", "--shares 0,150: must be at most 100"),
    ("cache --load-format safetensor", "--load-format safetensor: vLLM has no such load format; take "),
    (
        "cache --model qwen2.5-7b --length 131072",
        "a prompt of 131079 tokens: qwen2.5-7b has 131072 positions; take at most 131071",
    ),
    ("memory --lengths 1,99 --max-num-batched-tokens 9", "--max-num-batched-tokens 9: must be at least 100"),
    ("memory --tensor-parallel-size 2", "--tensor-parallel-size 2: must be 1"),
    ("memory --lengths 7", "--lengths 7: must be a list of whole numbers"),
    ("memory --lengths 16,x", "--lengths 16,x: must be a list of whole numbers"),
    ("memory --load-format safetensor", "--load-format safetensor: vLLM has no such load format; take "),
    (
        "memory --lengths 7,1023",
        "--lengths 1023: gpt2 has 1024 learned positions, which transformers does not extend; take 1 token ",
    ),
    (
        "backends --attention-backends FLASH_ATTN",
        "--attention-backends FLASH_ATTN: on a CPU vLLM has only CPU_ATTN",
    ),
    (
        "backends --attention-backends sdpa.flash",
        "--attention-backends sdpa.flash: the only attention of PyTorch's",
    ),
    ("backends --batch-sizes 0", "--batch-sizes 0: must be at least 1"),
    ("backends --batch-sizes 1,2000", "--batch-sizes 2000: must be at most 1024 prompts"),
    ("backends --input-lens 131073", "--input-lens 131073: a prompt must have 1..131072 tokens"),
    ("backends --output-len 1", "--output-len 1: must be at least 2"),
    ("backends --batch-sizes 8 --max-num-batched-tokens 4", "--max-num-batched-tokens 4: must be at least 8"),
    (
        "backends --model qwen2.5-7b --input-lens 131072",
        "a prompt of 131072 tokens: qwen2.5-7b has 131072 positions; take at most 131071",
    ),
    (
        "kvcache --tensor-parallel-size 2",
        "--tensor-parallel-size: unknown argument; --help lists the options",
    ),
    ("kernels --kv-cache-dtype fp8", "--kv-cache-dtype: unknown argument; --help lists the options"),
    ("backends --speculative-config {}", "--speculative-config {}: tokens are generated one by one, without"),
    *(
        (f"{command} --kv-cache-dtype fp8", "--kv-cache-dtype fp8: it changes vLLM alone, which is compared ")
        for command in ("kvcache", "memory")
    ),
    ("kvcache --output-len 1", "--output-len 1: must be at least 2"),
    ("kvcache --input-len 0", "--input-len 0: must be at least 1"),
    ("kvcache --load-format safetensor", "--load-format safetensor: vLLM has no such load format; take "),
    (
        "kvcache --input-len 1000 --output-len 100",
        "--input-len 1000 --output-len 100: gpt2 has 1024 learned positions, which transformers does not "
        "extend; take 79 tokens fewer",
    ),
    ("workload --prompts missing.jsonl", "--prompts missing.jsonl: cannot be read: No such file"),
    (
        "workload --prompts pyproject.toml --task score",
        "--prompts pyproject.toml: line 1 is no pair; --task score takes",
    ),
    ("workload --prompts README.md --case 8x512", "--prompts and --case: exclude each other; leave one out"),
    ("workload --case 8q1s512", "--case 8q1s512: 8q1s512: its 1 tokens follow a cached context"),
    ("workload --task score", "--task score: needs pairs; give --prompts with text_1 and text_2 a line"),
    ("workload --task embed --prompt-logprobs 1", "--prompt-logprobs 1: is of --task generate; leave it out"),
    ("workload --arms whole,all", "--arms whole,all: must be among whole, wrapped, dense, no_cache, not all"),
    ("workload --lengths 64,8", "--lengths 64,8: must ascend, up to 131072; e.g. 32,2048"),
    ("workload --lengths 64", "--lengths 64: must be a list of whole numbers"),
    ("workload --arrivals", "--arrivals: needs a trace; give --prompts, or leave it out"),
    (
        "workload --prompts configs/prompts/work.jsonl --arrivals",
        "--arrivals: configs/prompts/work.jsonl has no times",
    ),
    ("workload --convert embed", "--convert embed: is for pooling; add --task embed, classify or score"),
    ("workload --speculative-config {}", "--speculative-config {}: tokens are generated one by one, without"),
    *(
        (f"{command} --model no:such", "--model 'no:such': not a directory, a Hugging Face name or one of g")
        for command in ("cache", "memory", "backends", "kvcache", "workload")
    ),
    *(
        (f"{command} --block-size 20", "--block-size 20: must be a multiple of 32 for CPU_ATTN; take 32")
        for command in ("cache", "backends", "kvcache")
    ),
    *(
        (
            f"{command} {option} CPU_ATN",
            f"{option} CPU_ATN: vLLM has no such backend; take one of the nearest, ",
        )
        for command, s in (("cache", ""), ("memory", ""), ("backends", "s"))
        for option in [f"--attention-backend{s}"]
    ),
]


@pytest.fixture(scope="module")
def refusals():
    """What came of each line of REFUSED."""
    lines = [argv for argv, _ in REFUSED]
    return dict(zip(lines, run_all([("main", line.split()) for line in lines]), strict=True))


@pytest.mark.parametrize(("argv", "message"), REFUSED)
def test_bad_input_is_one_line_before_anything_heavy(refusals, argv, message):
    done = refusals[argv]
    assert (done.returncode, done.stderr.count("\n"), done.stdout, done.heavy) == (2, 1, "", [])
    assert done.stderr.startswith(f"python -m harness: error: {message}")


def test_kernels_are_at_least_one():
    with pytest.raises(ConfigError, match=r"--kernels : must be a list of names.*, at least 1 of them"):
        load(KernelsConfig, {"kernels": []})
