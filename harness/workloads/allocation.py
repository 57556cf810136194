"""Which blocks vLLM's own KV cache manager gives the requests of some work, without a model or an engine.

The steps are composed as vLLM's scheduler composes those of a prefill-only server: running requests first,
then waiting ones as they came, prompts in chunks where a step is full, and blocks free again once a prompt's
one token is sampled. How long a step takes is modelled: its tokens over a rate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from harness import layout
from harness.workloads.layouts import RequestLayout
from harness.workloads.work import Order, Work, WorkError, WorkRequest

WINDOW = 4  # times the blocks wanted, at the head of the free queue: what "longest" chooses from


@dataclass(frozen=True)
class Prompt:
    """What allocation needs to know of a request."""

    tokens: int
    arrival_s: float = 0.0
    block_hashes: tuple[bytes, ...] = ()  # of its full blocks and all before them; only for prefix caching


@dataclass(frozen=True)
class Pool:
    """A pool of blocks, and the server that it belongs to; names are vLLM's where it has one."""

    num_blocks: int  # with vLLM's null block
    block_size: int
    enable_prefix_caching: bool = False
    order: Order = "stock"
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 256
    tokens_per_s: float = 20_000.0


@dataclass(frozen=True)
class Allocated:
    """A request whose prompt is prefilled."""

    layout: RequestLayout
    end_s: float  # modelled
    running: int  # requests that held blocks at that moment, this one too


def make_prompts(work: Work, block_size: int, *, hashed: bool) -> list[Prompt]:
    """The prompts of a trace or of token ids, in the order of their arrival.

    Args:
        hashed: with the hashes that prefix caching compares.

    Raises:
        WorkError: a request is a text or a pair, whose tokens are not known.
    """
    prompts = []
    for request in work.requests:
        tokens = request.input_len or len(request.token_ids or ())
        if not tokens:
            raise WorkError(
                f"line {request.line}: has no number of tokens ({work.format}); give a trace or token ids"
            )
        keys = _block_keys(request, work.hash_tokens, block_size, tokens) if hashed else ()
        prompts.append(Prompt(tokens, request.arrival_s or 0.0, tuple(_chain(keys))))
    return sorted(prompts, key=lambda prompt: prompt.arrival_s)


def allocate(prompts: Sequence[Prompt], pool: Pool) -> Iterator[Allocated]:
    """Serve prompts, in the order given, and yield each as its prefill ends.

    One too large for the pool is left out. Raises PatchError if the installed vLLM's manager is another.
    """
    from patches import kv_cache_manager

    longest = max(prompt.tokens for prompt in prompts)
    manager = kv_cache_manager.make_manager(
        pool.num_blocks, pool.block_size, longest + 1, pool.enable_prefix_caching
    )
    prefer(manager.block_pool, pool.order)
    waiting = deque((n, p) for n, p in enumerate(prompts) if fits(p, pool))
    running: list[_Running] = []
    now_s = 0.0
    while waiting or running:
        if not running:
            now_s = max(now_s, waiting[0][1].arrival_s)
        left = pool.max_num_batched_tokens
        for each in running:
            left -= each.compute(manager, left)
        while waiting and waiting[0][1].arrival_s <= now_s and left and len(running) < pool.max_num_seqs:
            reserved = sum(each.missing_blocks(pool.block_size) for each in running)
            needed = layout.num_blocks(waiting[0][1].tokens, pool.block_size)
            if needed > manager.block_pool.get_num_free_blocks() - reserved:
                break
            number, prompt = waiting.popleft()
            request = kv_cache_manager.make_request(str(number), prompt.tokens, [*prompt.block_hashes])
            running.append(_Running(request, prompt))
            left -= running[-1].compute(manager, left)
        now_s += (pool.max_num_batched_tokens - left) / pool.tokens_per_s
        ended = [each for each in running if each.done == each.prompt.tokens]
        for each in ended:
            yield Allocated(each.layout(manager, pool.block_size), now_s, len(running))
        for each in ended:
            manager.free(each.request)
        running = [each for each in running if each.done < each.prompt.tokens]


def fits(prompt: Prompt, pool: Pool) -> bool:
    """Whether a prompt's blocks fit the pool, of which vLLM keeps one."""
    return layout.num_blocks(prompt.tokens, pool.block_size) < pool.num_blocks


def prefer(block_pool: Any, order: Order) -> None:
    """Change the order in which a vLLM BlockPool hands out free blocks.

    stock: as vLLM does, those at the head of its free queue. sorted: the same blocks, by ascending id.
    longest: of the blocks at the head of the free queue, `WINDOW` times as many as wanted, those in the
    longest stretches of neighbours, by ascending id.
    """
    from patches import block_pool as free_queue

    if order == "stock":
        return
    take = block_pool.get_new_blocks

    def get_new_blocks(num_blocks: int) -> list[Any]:
        if order == "longest":
            near = free_queue.next_block_ids(block_pool, WINDOW * num_blocks)
            free_queue.choose_next(block_pool, longest_stretches(near, num_blocks))
        return sorted(take(num_blocks), key=lambda block: int(block.block_id))

    block_pool.get_new_blocks = get_new_blocks


def longest_stretches(free_ids: Sequence[int], count: int) -> list[int]:
    """`count` of the free ids, from the longest stretches of neighbours on; all if there are fewer."""
    stretches = sorted(layout.segments(sorted(free_ids)), key=lambda segment: -segment.length)
    ids = [n for segment in stretches for n in range(segment.first_id, segment.first_id + segment.length)]
    return ids[:count]


@dataclass
class _Running:
    """A request that holds blocks."""

    request: Any  # vLLM's
    prompt: Prompt
    done: int = 0  # tokens computed or found in the cache
    hits: int = 0  # tokens found

    def compute(self, manager: Any, most: int) -> int:
        """Give it blocks for its next chunk of up to `most` tokens, and return that chunk's length."""
        cached = None
        if self.done == 0:
            cached, self.hits = manager.get_computed_blocks(self.request)[:2]
        found = self.hits if self.done == 0 else 0
        tokens = min(most, self.prompt.tokens - self.done - found)
        if tokens <= 0:
            return 0
        given = manager.allocate_slots(self.request, tokens, found, cached)
        assert given is not None, "all of its blocks were free when it was admitted"
        self.done += found + tokens
        self.request.num_computed_tokens = self.done
        return tokens

    def missing_blocks(self, block_size: int) -> int:
        """Blocks that its other chunks will take."""
        return -(-self.prompt.tokens // block_size) - -(-self.done // block_size)

    def layout(self, manager: Any, block_size: int) -> RequestLayout:
        """Where its K and V lie."""
        (ids,) = manager.get_block_ids(self.request.request_id)
        return RequestLayout(self.prompt.arrival_s, self.prompt.tokens, tuple(ids), self.hits // block_size)


def _block_keys(
    request: WorkRequest, hash_tokens: int | None, block_size: int, tokens: int
) -> Iterator[tuple[object, ...]]:
    """What tells each full block's content from others', together with the blocks before it."""
    for start in range(0, tokens - block_size + 1, block_size):
        end = start + block_size
        if request.token_ids is not None:
            yield request.token_ids[start:end]
        elif hash_tokens and request.hash_ids:
            of_block = request.hash_ids[start // hash_tokens : (end - 1) // hash_tokens + 1]
            yield (*of_block, start % hash_tokens)
        else:  # shares nothing
            yield (-1, request.line, start)


def _chain(keys: Iterator[tuple[object, ...]] | tuple[()]) -> Iterator[bytes]:
    before = 0
    for key in keys:
        before = hash((before, key))
        yield before.to_bytes(8, "little", signed=True)
