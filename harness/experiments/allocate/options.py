"""Options of the experiment `allocate`."""

from __future__ import annotations

from itertools import product
from typing import Annotated, ClassVar, cast

from pydantic import Field, field_validator

from harness.config import fields
from harness.config.defaults import DeviceKind
from harness.config.errors import ConfigError, label, refuse
from harness.config.fields import AnyPath, Common, Count, NonEmpty, Seconds, deduplicate
from harness.shipped import configs
from harness.units import pluralise
from harness.workloads import ORDERS, PAIRS, TEXTS, Order, Work, WorkError, read_work

TRACE = configs("prompts", "made-up-trace.jsonl")
MOST_BLOCKS = 2**22  # of a pool: vLLM makes an object of each
GROUPS: dict[str, list[str]] = {
    "requests": ["prompts", "requests"],
    "pools (vLLM's own names)": ["num_blocks", "block_size", "enable_prefix_caching", "order"],
    "steps": ["max_num_batched_tokens", "max_num_seqs", "tokens_per_s"],
    "sampling (of other experiments; nothing is timed here)": ["seed", *fields.SAMPLING_OPTIONS],
    "output": [*fields.OUTPUT_OPTIONS],
}


class AllocateConfig(Common):
    """A trace's requests in every pool. `resolve` fills in what is None."""

    experiment: ClassVar[str] = "allocate"

    prompts: AnyPath | None = Field(
        None, description="trace, or prompts as token ids (default: a made-up trace of 300 requests)"
    )
    requests: Count | None = Field(None, description="only its first N requests (default: all)")
    num_blocks: Annotated[list[Count], Field(min_length=1)] = Field(
        [16384], description="blocks of the KV cache's pool, e.g. 4096,65536"
    )
    block_size: Annotated[list[Count], Field(min_length=1)] = Field(
        [16], description="tokens per block, e.g. 16,64"
    )
    enable_prefix_caching: bool = Field(False, description="keep blocks for requests with the same beginning")
    order: Annotated[list[NonEmpty], Field(min_length=1)] = Field(
        [*ORDERS],
        description="which free blocks a request gets: stock, vLLM's; sorted, the same by ascending id; "
        "longest, of those at the head of the queue the longest stretches",
    )
    max_num_batched_tokens: Count = Field(8192, description="tokens of a step; longer prompts take several")
    max_num_seqs: Count = Field(256, description="requests that may hold blocks at once")
    tokens_per_s: Seconds = Field(20_000.0, description="prefilled per second: the steps' modelled time")

    _deduplicate = field_validator("num_blocks", "block_size", "order")(deduplicate)

    def pools(self) -> list[tuple[int, int, Order]]:
        """Block size, number of blocks and order of each pool; needs a resolved configuration."""
        return [*product(self.block_size, self.num_blocks, cast(list[Order], self.order))]

    def work(self) -> Work:
        """The requests that are served. Raises ConfigError, which names the file and the line."""
        path = self.prompts or TRACE
        try:
            work = read_work(path)
        except WorkError as error:
            raise ConfigError(f"{label('prompts', path)}: {error}") from error
        if work.format in (TEXTS, PAIRS) or any(request.prompt for request in work.requests):
            raise ConfigError(
                f"{label('prompts', path)}: holds {work.format}, whose numbers of tokens depend on a model; "
                "name a trace, or prompts as token ids"
            )
        return work.first(self.requests) if self.requests else work


def resolve(config: AllocateConfig, device_kind: DeviceKind) -> AllocateConfig:
    """Fill in what all experiments have, and check files and pools. Raises ConfigError."""
    resolved = fields.resolve_common(config, device_kind, "allocate")
    problems = fields.common_problems(resolved, device_kind)
    problems += [
        f"{label('num_blocks', count)}: must be within 2..{MOST_BLOCKS}, of which vLLM keeps one"
        for count in config.num_blocks
        if not 2 <= count <= MOST_BLOCKS
    ]
    problems += [
        f"{label('order', order)}: must be {', '.join(ORDERS[:-1])} or {ORDERS[-1]}"
        for order in config.order
        if order not in ORDERS
    ]
    refuse(problems)
    config.work()
    return resolved


def plan(config: AllocateConfig) -> list[str]:
    """What a resolved configuration does, a line each."""
    work = config.work()
    caching = "on" if config.enable_prefix_caching else "off"
    return [
        f"requests: {len(work.requests)}, {work.format}; no model runs, and nothing is timed",
        f"pools: {', '.join(map(str, config.num_blocks))} blocks of {', '.join(map(str, config.block_size))} "
        f"tokens, prefix caching {caching}",
        f"order of allocation: {', '.join(config.order)}; {pluralise(len(config.pools()), 'cell')}",
    ]
