"""Requests in an engine, from their prompts to their last token: several at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.engine.options import EngineError
from harness.engine.prefill_engine import PrefillEngine
from harness.units import counted


@dataclass(frozen=True)
class Completed:
    """What requests that ran side by side came to, each list in their order."""

    tokens: list[list[int]]  # generated, greedily
    cached_tokens: list[int]  # of each prompt, how many came out of the prefix cache: vLLM's own count
    seconds: float  # of the engine's steps: schedule, run the model, sample, process the output


def complete(
    engine: PrefillEngine,
    prompts: Sequence[Sequence[int]],
    output_len: int = 1,
    on_step: Callable[[], object] = lambda: None,
) -> Completed:
    """Prefill the prompts in one step and generate `output_len` tokens for each.

    Args:
        engine: one that takes so many at once (max_num_seqs, max_num_batched_tokens).
        prompts: token ids of each.
        on_step: called after every step, untimed; what its requests hold is released in the last one.

    Raises:
        EngineError: the prompts took more than one step.
    """
    from vllm import SamplingParams

    params = SamplingParams(max_tokens=output_len, temperature=0.0, ignore_eos=True, detokenize=False)
    names = [f"completion {n}" for n in range(len(prompts))]
    for name, prompt in zip(names, prompts, strict=True):
        engine.llm.add_request(name, {"prompt_token_ids": list(prompt)}, params)
    finished: dict[str, Any] = {}
    seconds, steps = 0.0, 0
    try:
        while engine.llm.has_unfinished_requests():
            with engine.ranks.watched():
                start = time.perf_counter()
                outputs = engine.llm.step()
                seconds += time.perf_counter() - start
            finished |= {output.request_id: output for output in outputs if output.finished}
            steps += 1
            on_step()
    except BaseException:
        engine.llm.abort_request(names)  # their blocks are free for the next ones
        raise
    if steps != output_len:
        tokens = sum(map(len, prompts))
        raise EngineError(
            f"{counted(len(prompts), 'prompt')} of {tokens} tokens in all took more than one step; "
            "raise --max-num-batched-tokens, or give the KV cache more room"
        )
    done = [finished[name] for name in names]
    return Completed(
        [list(output.outputs[0].token_ids) for output in done],
        [output.num_cached_tokens or 0 for output in done],
        seconds,
    )


def reset_prefix_cache(engine: PrefillEngine) -> float:
    """Forget all cached prefixes; the seconds it took. Raises EngineError if vLLM refuses."""
    from patches import kv_cache

    start = time.perf_counter()
    done = kv_cache.reset_prefix_cache(engine.llm)
    seconds = time.perf_counter() - start
    if not done:
        raise EngineError("vLLM did not reset its prefix cache: some request still holds blocks")
    return seconds


def warm_up(engine: PrefillEngine, lengths: Sequence[int], at_once: int) -> None:
    """Run prompts of these lengths, alone and `at_once` together: what compiles or allocates does it here."""
    for length in lengths:
        for count in sorted({1, at_once}):
            complete(engine, [[1 + n % 7 for n in range(length)]] * count)
