"""Options of the experiment `transfer`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator

from harness.config import checks, fields
from harness.config.defaults import DeviceKind, describe
from harness.config.errors import label, nearest, refuse
from harness.config.fields import AnyPath, Common, Count, NonEmpty, Sweep, deduplicate
from harness.experiments.transfer.ways import DIRECTIONS, KV_LAYOUTS, LAYER_TENSORS, NAMES
from harness.runs.store import RunDirectory, require_run
from harness.runs.writing import Damaged
from harness.units import ELEMENT_BYTES, MIB, kv_bytes_per_token

NUM_LAYERS: dict[DeviceKind, int] = {"cuda": 32, "cpu": 4}
L2: dict[DeviceKind, Literal["cold"] | None] = {"cuda": "cold", "cpu": None}
BYTES = ELEMENT_BYTES | {"fp8": 1}
Listed = Annotated[list[NonEmpty], Field(min_length=1)]
Shares = Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)]
GROUPS: dict[str, list[str]] = {
    "what is moved": ["length", "num_layers", "num_kv_heads", "head_dim", "dtype", "block_size", "seed"],
    "where and how": ["directions", "ways", "kv_layouts", "layer_tensors", "l2"],
    "layout sweep": [*fields.SWEEP_OPTIONS, "segments_per_block", "falling", "layouts"],
    "prefill and hand-over": ["prefill_run"],
    **fields.COMMON_GROUPS,
}


class TransferConfig(Common, Sweep):
    """The KV cache of one request of this shape. `resolve` fills in what is None."""

    experiment: ClassVar[str] = "transfer"

    num_layers: Count | None = Field(None, description=f"attention layers (default: {describe(NUM_LAYERS)})")
    num_kv_heads: Count = Field(8, description="heads of K and V")
    head_dim: Count = Field(128, description="values per head")
    dtype: Literal["float16", "bfloat16", "float32", "fp8"] = Field(
        "bfloat16", description="data type of the KV cache: how many bytes are moved"
    )
    directions: Listed = Field(
        [*DIRECTIONS],
        description="to_host: into pinned host memory; to_gpu: back into the blocks; to_peer: to the next "
        "GPU",
    )
    ways: Listed = Field(
        [*NAMES],
        description="any of " + ", ".join(NAMES) + "; one that cannot run here gives the reason",
    )
    kv_layouts: Listed = Field(
        ["interleaved"],
        description="interleaved: a block's K and V side by side, as in vLLM; stacked: all K, then all V",
    )
    layer_tensors: Listed = Field(
        ["apart"],
        description="apart: a tensor a layer; together: a block holds all layers, as connectors may ask",
    )
    l2: Literal["warm", "cold"] | None = Field(
        None,
        description="state of the L2 cache before every transfer on CUDA: warm (the same transfer has just "
        f"run) or cold (flushed) (default: {L2['cuda']})",
    )
    segments_per_block: Shares | None = Field(
        None,
        description="further points of the sweep, as traffic leaves them, e.g. 0.53,0.96; 1: fully scattered",
    )
    falling: bool = Field(
        False,
        description="ids fall within a segment, as where vLLM hands out the blocks of a finished request",
    )
    layouts: Listed | None = Field(
        None,
        description="files of the block tables that traffic left, of `allocate` or `workload`; of each the "
        "10th, 50th and 90th percentile of segments per block",
    )
    prefill_run: AnyPath | None = Field(
        None,
        description="a run of the main job with the same --length, whose latency is added to the transfer's",
    )

    _deduplicate = field_validator("directions", "ways", "kv_layouts", "layer_tensors", "layouts")(
        deduplicate
    )

    def spreads(self) -> list[int]:
        """The sweep's values of spread_k and of segments_per_block; needs a resolved configuration."""
        blocks = self.num_blocks()
        natural = (max(1, round(share * blocks)) for share in self.segments_per_block or ())
        return sorted({*super().spreads(), *natural})

    def block_bytes(self) -> int:
        """Bytes of a block in all layers; needs a resolved configuration."""
        return self.bytes_per_token() * (self.block_size or 0)

    def bytes_per_token(self) -> int:
        """Bytes of a token's K and V in all layers; needs a resolved configuration."""
        return kv_bytes_per_token(self.num_layers or 0, self.num_kv_heads, self.head_dim, BYTES[self.dtype])

    def request_bytes(self) -> int:
        """Bytes of all blocks of the request, the last one whole; needs a resolved configuration."""
        return self.block_bytes() * self.num_blocks()


def resolve(config: TransferConfig, device_kind: DeviceKind) -> TransferConfig:
    """Fill in what depends on the device and check the result against it. Raises ConfigError."""
    chosen = {
        "num_layers": config.num_layers or NUM_LAYERS[device_kind],
        "l2": config.l2 or L2[device_kind],
    }
    resolved = fields.resolve_common(config, device_kind, f"transfer-{config.length}")
    resolved = resolved.model_copy(update=chosen)
    problems = fields.common_problems(resolved, device_kind)
    problems += checks.timer_problems("auto", config.l2, device_kind)
    for option, known in (
        ("directions", DIRECTIONS),
        ("ways", NAMES),
        ("kv_layouts", KV_LAYOUTS),
        ("layer_tensors", LAYER_TENSORS),
    ):
        problems += _unknown(option, getattr(config, option), known)
    refuse(
        [*problems, *resolved.spread_problems(), *_prefill_problems(resolved), *_layouts_problems(resolved)]
    )
    return resolved


def _unknown(option: str, names: Iterable[str], known: tuple[str, ...]) -> Iterable[str]:
    for name in names:
        if name not in known:
            yield f"{label(option, name)}: must be one of {', '.join(known)}; {nearest(name, known)}"


def _layouts_problems(config: TransferConfig) -> Iterable[str]:
    """Files of layouts that cannot be read, or have no request of this shape."""
    if not config.layouts:
        return
    from harness.experiments.transfer import natural  # both import NumPy
    from harness.workloads.layouts import LayoutsError

    for path in config.layouts:
        try:
            natural.read(path, config.num_blocks(), config.block_size or 0)
        except LayoutsError as error:
            yield f"{label('layouts', path)}: {error}"
    names = [natural.name_of(path) for path in config.layouts]
    if twice := next((name for name in names if names.count(name) > 1), None):
        yield f"{label('layouts', config.layouts)}: two files are called {twice}; rename one"


def _prefill_problems(config: TransferConfig) -> Iterable[str]:
    """Why the stored run's latency cannot be added to these transfers."""
    if config.prefill_run is None:
        return
    require_run(config.prefill_run)
    option = label("prefill_run", config.prefill_run)
    try:
        record = RunDirectory(config.prefill_run).record()
    except Damaged as error:
        yield f"{option}: {error}"
        return
    lengths = [request.length for request in record.prompts]
    if record.experiment != "prefill":
        yield f"{option}: a run of {record.experiment}; name one of the main job"
    elif lengths != [config.length]:
        tokens = ", ".join(map(str, lengths)) or "an unknown number of"
        yield f"{option}: of {tokens} tokens, --length is {config.length}; name a run of that length"
    else:
        of_model = record.model.model_dump(include={"num_layers", "num_kv_heads", "head_dim"})
        for name, value in of_model.items():
            if value is not None and value != getattr(config, name):
                asked = label(name, getattr(config, name))
                yield f"{option}: its model's is {value}, not {asked}; set --{name.replace('_', '-')} {value}"


def plan(config: TransferConfig) -> list[str]:
    """What a resolved configuration measures, a line each."""
    size = f"{config.num_blocks()} blocks, {config.request_bytes() / MIB:.0f} MiB"
    natural = [f"layouts: {', '.join(config.layouts)}, typical ones of each"] if config.layouts else []
    return [
        f"request: {config.length} tokens in {size}",
        f"directions: {', '.join(config.directions)}; ways: {', '.join(config.ways)}",
        f"spread_k: {', '.join(map(str, config.spreads()))}, a series each for every direction and layout",
        *natural,
    ]
