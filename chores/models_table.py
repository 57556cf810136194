"""The table of model families in docs/support.md, made by running each: about half a minute a family.

    python -m chores.models_table [FAMILY ...]

Each is built at a small size with random weights, run by plain vLLM and then measured by the main job, in
processes of their own. Lines appear on stderr as they are done, the table on stdout at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from chores.small_models import FAMILIES, VOCABULARY, Family

ROOT = Path(__file__).resolve().parent.parent
LENGTH, BLOCK_SIZE = 70, 32
HEADERS = ("model", "layers", "plain vLLM", "replayed", "whole prefill", "notes")
TIMEOUT_S = 300
# Of a model that plain vLLM runs with an adapter.
LORA = (
    "LoRA",
    "as its base",
    "not tried",
    "-",
    "-",
    "prefills run without an adapter: merge it into the weights",
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the families named, or all, and print their table."""
    parser = argparse.ArgumentParser(prog="python -m chores.models_table", description=__doc__)
    parser.add_argument("families", nargs="*", metavar="FAMILY", help="default: all")
    parser.add_argument("--build", nargs=2, metavar=("FAMILY", "DIR"), help="only write the model's files")
    parser.add_argument("--plain", metavar="DIR", help="only prefill with the model in DIR in plain vLLM")
    options = parser.parse_args(arguments)
    if unknown := set(options.families) - FAMILIES.keys():
        parser.error(f"{', '.join(unknown)}: not among {', '.join(FAMILIES)}")
    if options.build:
        FAMILIES[options.build[0]].save(Path(options.build[1]))
    elif options.plain:
        run_plain(Path(options.plain))
    else:
        print_table(options.families or list(FAMILIES), with_lora=not options.families)


def print_table(names: Sequence[str], *, with_lora: bool) -> None:
    """Run the families and print where, then their table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            rows.append(row_of(name, FAMILIES[name], Path(folder) / name.replace(" ", "-")))
            print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    if with_lora:
        rows.append(LORA)
    lines = [HEADERS, ["---"] * len(HEADERS), *rows]  # not padded: some cells are long
    print(f"{where()}\n", *(f"| {' | '.join(cells)} |" for cells in lines), sep="\n")


def where() -> str:
    """The date, versions and device of the runs."""
    from harness import device
    from patches import installed_vllm

    packages = (f"{name} {metadata.version(name)}" for name in ("torch", "transformers"))
    software = ", ".join([installed_vllm() or "no vLLM", *packages])
    return f"{datetime.now():%Y-%m-%d}, {software}, {device.describe()['name']}:"


def row_of(name: str, family: Family, folder: Path) -> tuple[str, ...]:
    """Build a family's model, run it, and say what came out. Nothing that goes wrong is raised."""
    cells = (name, family.kind)
    failure = call("chores.models_table", "--build", name, str(folder))
    if failure:
        return (*cells, f"not built: {failure}", "-", "-", "")
    failure = call("chores.models_table", "--plain", str(folder))
    plain = f"no: {failure}" if failure else "yes"
    output = folder / "run"
    options = [
        f"--model={folder}", f"--length={LENGTH}", "--spread-k=1,2", f"--block-size={BLOCK_SIZE}",
        "--layers=all", "--repeats=6", "--enforce-eager", f"--output-dir={output}",
        f"--load-format={load_format(folder)}",
    ]  # fmt: skip
    failure = call("run_vllm_prefill", *options)
    if failure:
        return (*cells, plain, "-", "-", failure)
    return (*cells, plain, *describe_run(output))


def describe_run(output: Path) -> tuple[str, str, str]:
    """How many layers were replayed, which in-engine arms ran, and the notices about layers."""
    record, summary = (json.loads((output / f"{name}.json").read_text()) for name in ("run", "summary"))
    layers, model = len(record["layers"]), record["model"]
    statuses = {
        (row["arm"], row["status"]) for row in summary["kernels"] if row["provider"].startswith("vLLM")
    }
    right = {arm for arm, status in statuses if status == "ok"}
    wrong = {arm for arm, status in statuses if status not in ("ok", "unsupported")}
    replayed = f"{layers if right else 0} of {model['num_layers'] + model['layers_left_out']}"
    arms: dict[str, list[str]] = {}
    for row in summary["end_to_end"]:
        arms.setdefault(row["status"], []).append(row["arm"])
    every = arms.keys() == {"ok"} and "dense" in arms["ok"]
    ran = (f"{status}: {', '.join(dict.fromkeys(names))}" for status, names in arms.items())
    whole = "all arms" if every else "; ".join(ran)
    about_layers = ("left out: ", "without attention", "KV cache of", "in blocks of")
    notes = [n for n in record["notices"] if any(words in n for words in about_layers)]
    return replayed + (f" (wrong: {', '.join(sorted(wrong))})" if wrong else ""), whole, "; ".join(notes)


def load_format(folder: Path) -> str:
    """vLLM's own random weights for a model without weights."""
    return "auto" if (folder / "model.safetensors").exists() else "dummy"


def run_plain(folder: Path) -> None:
    """Prefill once in vLLM; raises as vLLM does."""
    from vllm import LLM, SamplingParams

    more: dict[str, Any] = {"load_format": load_format(folder), "skip_tokenizer_init": True}
    more |= {"block_size": BLOCK_SIZE, "max_model_len": LENGTH + 2}
    llm = LLM(str(folder), enforce_eager=True, enable_prefix_caching=False, **more)
    prompt = [3 + n % (VOCABULARY - 3) for n in range(LENGTH)]
    llm.generate({"prompt_token_ids": prompt}, SamplingParams(max_tokens=1, detokenize=False))


def call(module: str, *arguments: str) -> str | None:
    """Run a module in a process of its own; the last line of its error, or None if there was none."""
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | quiet, capture_output=True, text=True, timeout=TIMEOUT_S,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"not done after {TIMEOUT_S} s"
    if done.returncode == 0:
        return None
    if done.returncode < 0:
        return f"ended by signal {-done.returncode}"
    lines = [line.strip() for line in done.stderr.splitlines() if "Error" in line or "error: " in line]
    last = (lines or done.stderr.splitlines() or ["no error message"])[-1]
    return last.split("error: ", 1)[-1].removeprefix("[rank0]: ").replace("|", "\\|")[:200]


if __name__ == "__main__":
    main()
