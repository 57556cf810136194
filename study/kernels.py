"""python -m study.kernels DIRECTORY --seed N: attention calls of the study in one process, FA2 beside FA3.

One process measures all of CALLS; an interval over processes takes five, with seeds 0 to 4. A call that is
already in the directory is left alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import harness

HEADS = {
    "gpt2": {"num_heads": 12, "num_kv_heads": 12, "head_dim": 64},
    "llama-3-8b": {"num_heads": 32, "num_kv_heads": 8, "head_dim": 128},
}
CALLS: tuple[dict[str, Any], ...] = (
    {"shape": "gpt2", "length": 4096, "block_size": 16, "gap": "shuffled"},
    {"shape": "gpt2", "length": 4096, "block_size": 16, "gap": "scattered"},
    {"shape": "gpt2", "length": 4096, "block_size": 128, "gap": "shuffled"},
    {"shape": "llama-3-8b", "length": 4096, "block_size": 16, "gap": "shuffled"},
    {"shape": "llama-3-8b", "length": 4096, "block_size": 128, "gap": "shuffled"},
    {"shape": "llama-3-8b", "length": 16384, "block_size": 16, "gap": "scattered"},
    {"shape": "llama-3-8b", "length": 16384, "block_size": 128, "gap": "scattered"},
)
VERSIONS = (2, 3)
SECONDS = 1.5  # a call: 15 rounds of the longest


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(prog="python -m study.kernels", description=__doc__)
    parser.add_argument("directory", type=Path, help="a run a call is put there")
    parser.add_argument("--seed", type=int, required=True, help="the process's number, from 0")
    options = parser.parse_args()
    for call in CALLS:
        run = options.directory / "-".join(map(str, [*call.values(), options.seed]))
        if not (run / "summary.json").is_file():
            own = {"seed": options.seed, "output_dir": run, "overwrite": True, "quiet": True}
            harness.run("kernels", **options_of(call), **own)


def options_of(call: dict[str, Any]) -> dict[str, Any]:
    """One of CALLS as options of the experiment."""
    where = {name: value for name, value in call.items() if name != "shape"}
    return {
        "kernels": [f"vllm-fa{version}" for version in VERSIONS],
        **HEADS[call["shape"]],
        **where,
        "spread_k": [call["length"] // call["block_size"]],
        "max_seconds": SECONDS,
    }


def shape_of(config: dict[str, Any]) -> str:
    """The shape that these options have, by its name if it has one."""
    heads = {name: config[name] for name in HEADS["gpt2"]}
    return next((name for name, known in HEADS.items() if known == heads), "x".join(map(str, heads.values())))


if __name__ == "__main__":
    main()
