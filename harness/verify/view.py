"""What was found, as a block of Markdown to paste into an issue, and as JSON."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from typing import Any

from harness import device
from harness.analysis.verdicts import judge
from harness.engine.answers import Agreement
from harness.report.tables import NONE, Line, Section, markdown
from harness.runs.command import from_argv
from harness.units import MIB
from harness.verify.job import STOCK, Contrast, Verified

CHECKS = ("engine", "each prompt alone", "all at once", "cache written", "K and V pool", "allocated")
TIMES = ("batch", "engine", "median ms", "requests/s", "time against stock", "95%", "")
BELOW = "Times of whole batches in interleaved rounds, paired; intervals of the mean difference."


def block(verified: Verified, argv: list[str]) -> str:
    """The block: software, device and model, the verdict of each check, the times."""
    versions, about = device.versions(), device.describe()
    facts = verified.facts[STOCK]
    lines = [
        f"### Prefill-only plugin: {'equal' if verified.equal else 'NOT EQUAL'}",
        "",
        f"vLLM {versions['vllm']}, PyTorch {versions['torch']}, harness {versions['harness']}; "
        f"{about['name']}; "
        f"{verified.model} ({verified.weights} weights), {facts.dtype}, {', '.join(facts.backends)}, "
        f"{facts.cudagraph_mode} graphs",
        "",
        f"`{shlex.join(from_argv(argv) or ['python', '-m', 'harness', 'verify'])}`",
        "",
        _checks(verified),
    ]
    if verified.contrasts:
        lines += ["", _times(verified.contrasts), "", BELOW]
    return "\n".join(lines)


def _checks(verified: Verified) -> str:
    lines = []
    for arm, facts in verified.facts.items():
        if arm == STOCK:
            itself = f"itself: {_agreement(verified.itself)}" if verified.itself else NONE
            answers = ["is compared with", itself]
        else:
            both = verified.alone.get(arm), verified.together.get(arm)
            answers = [_agreement(each) if each else NONE for each in both]
        written = verified.written[arm]
        memory = [f"{facts.pool_bytes / MIB:,.0f} MiB", f"{facts.allocated_bytes / MIB:,.0f} MiB"]
        lines.append(Line(arm, (*answers, f"{written:,} numbers" if written else "no", *memory)))
    return markdown(CHECKS, [Section("", lines)], text_column=1)


def _agreement(found: Agreement) -> str:
    if found.identical:
        return f"{found.prompts} identical, bit for bit"
    tokens = "" if found.same_tokens is None else f"{found.same_tokens}/{found.prompts} tokens equal"
    ties = f", {found.ties} tied" if found.ties else ""
    worst = f"worst {found.worst:.2g} (allowed {found.allowed:g})"
    return f"{'equal' if found.equal else '**not equal**'}: {', '.join(filter(None, (tokens + ties, worst)))}"


def _times(contrasts: list[Contrast]) -> str:
    lines = []
    for each in contrasts:
        if each.us is None:
            lines.append(Line(each.batch, (each.arm, NONE, "", "", "", each.reason or "")))
            continue
        cells = [each.arm, f"{each.us / 1000:.3f}", f"{1e6 * each.prompts / each.us:,.1f}"]
        if difference := each.difference:
            bounds = difference.ci95_pct
            interval = f"[{bounds[0]:+.1f}%, {bounds[1]:+.1f}%]" if bounds else NONE
            cells += [f"{difference.delta_pct:+.1f}%", interval, f"{judge(bounds).verdict}, n={difference.n}"]
        lines.append(Line(each.batch, (*cells, *[""] * (len(TIMES) - 1 - len(cells)))))
    return markdown(TIMES, [Section("", lines)], text_column=1)


def as_json(verified: Verified, argv: list[str]) -> str:
    """Everything, with all samples."""
    content: dict[str, Any] = {
        "schema_version": 1,
        "command": from_argv(argv),
        "versions": device.versions(),
        "device": device.describe(),
        "config": verified.config.model_dump(mode="json"),
        "equal": verified.equal,
        "weights": verified.weights,
        "engines": {
            arm: asdict(facts) | {"settings": facts.settings.to_json()}
            for arm, facts in verified.facts.items()
        },
        "alone": {arm: asdict(found) for arm, found in verified.alone.items()},
        "together": {arm: asdict(found) for arm, found in verified.together.items()},
        "stock_against_itself": verified.itself and asdict(verified.itself),
        "numbers_written": verified.written,
        "contrasts": [asdict(each) for each in verified.contrasts],
        "samples": [result.to_json() for result in verified.results],
    }
    return json.dumps(content, indent=1)
