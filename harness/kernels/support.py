"""What a kernel supports, as data, and the reasons that follow for refusing a call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, Protocol

import torch

from harness.calls.capture import AttentionCall
from harness.kernels.protocol import Run, Unsupported
from harness.runs.record import Status, status_of
from harness.units import first_line
from patches import Symbol, problems


class Feature(Enum):
    """A feature that an attention call may need; the value is its name in a sentence."""

    DENSE = "K and V without a block table"
    PAGED = "block table"
    CAUSAL = "causal mask"
    FULL = "attention without a causal mask"
    GQA = "grouped-query attention"
    MQA = "multi-query attention (one KV head)"
    SCALE = "softmax scale other than 1/sqrt(head size)"
    WINDOW = "sliding window"  # under a causal mask, which hides what is on the right
    SYMMETRIC = "window of equal sides without a causal mask"
    LOPSIDED = "window of unequal sides without a causal mask"
    SOFTCAP = "logit soft-cap"
    ALIBI = "ALiBi slopes"
    SINKS = "attention sinks"
    BATCH = "several requests in one call"
    RAGGED = "requests of different lengths in one call"


@dataclass(frozen=True)
class Sizes:
    """Head sizes or page sizes: multiples within limits, or a list."""

    multiple_of: int = 1
    largest: int | None = None
    smallest: int = 1
    only: tuple[int, ...] = ()

    def __contains__(self, size: int) -> bool:
        if self.only:
            return size in self.only
        return size % self.multiple_of == 0 and self.smallest <= size <= (self.largest or size)

    def __str__(self) -> str:
        if self.only:
            return ", ".join(map(str, self.only))
        words = "any" if self.multiple_of == 1 else f"multiples of {self.multiple_of}"
        if self.smallest > self.multiple_of:
            words += f" from {self.smallest}"
        return f"{words} to {self.largest}" if self.largest else words


ANY = Sizes()
GPU_INSTALL = "make ENGINE=gpu, or pip install vllm"  # how to get vLLM's own kernels


@dataclass(frozen=True)
class Package:
    """Where a kernel's code comes from."""

    module: str  # what is imported, e.g. "flash_attn"
    install: str  # how to get it, in a line
    also: tuple[str, ...] = ()  # modules that it needs and that do not come with it
    needs: tuple[Symbol, ...] = ()  # inside it


@dataclass(frozen=True)
class Apart:
    """Two features that are supported separately but not together."""

    one: Feature
    other: Feature
    head_sizes: tuple[int, ...] = ()  # only for heads of these sizes; empty: for all

    def forbids(self, asked: set[Feature], head_dim: int) -> bool:
        """Whether a call with these features needs both."""
        return {self.one, self.other} <= asked and head_dim in (self.head_sizes or (head_dim,))

    @property
    def where(self) -> str:
        """Where it applies, to end a sentence, e.g. " for heads of 80 and 96"; "" if always."""
        return f" for heads of {' and '.join(map(str, self.head_sizes))}" if self.head_sizes else ""


@dataclass(frozen=True)
class Support:
    """What a kernel supports. Calls that need anything else are refused before the kernel sees them."""

    features: frozenset[Feature]
    dtypes: tuple[str, ...]  # PyTorch's names, e.g. "bfloat16"
    head_sizes: Sizes
    package: Package
    devices: tuple[Literal["cuda", "cpu"], ...] = ("cuda",)
    page_sizes: Sizes = ANY
    paged_head_sizes: Sizes | None = None  # with a block table, if more restricted
    capability: tuple[int, int] = (8, 0)  # lowest compute capability of an NVIDIA GPU
    last_capability: tuple[int, int] | None = None  # the highest; None: no limit
    apart: tuple[Apart, ...] = ()
    because: dict[Feature, str] = field(
        default_factory=dict
    )  # why not, if the feature's name does not explain it

    def head_sizes_of(self, *, paged: bool) -> Sizes:
        """The head sizes supported with a block table, or without one."""
        return (self.paged_head_sizes if paged else None) or self.head_sizes


class Declared(Protocol):
    """An adapter's name, provider and declaration."""

    @property
    def name(self) -> str: ...
    @property
    def provider(self) -> str: ...
    @property
    def support(self) -> Support: ...


def features_of(call: AttentionCall, page_size: int | None) -> set[Feature]:
    """The features that a call needs; `page_size` is None for K and V without a block table."""
    left, right = call.sliding_window
    lengths = call.query_start_loc.diff()
    usual_scale = call.head_dim**-0.5
    asked = {
        Feature.DENSE: page_size is None,
        Feature.PAGED: page_size is not None,
        Feature.CAUSAL: call.causal,
        Feature.FULL: not call.causal,
        Feature.GQA: 1 < call.num_kv_heads < call.num_heads,
        Feature.MQA: 1 == call.num_kv_heads < call.num_heads,
        Feature.SCALE: abs(call.scale - usual_scale) > 1e-6 * usual_scale,
        Feature.WINDOW: call.causal and left >= 0,
        Feature.SYMMETRIC: not call.causal and left == right >= 0,
        Feature.LOPSIDED: not call.causal and left != right,
        Feature.SOFTCAP: call.softcap != 0,
        Feature.ALIBI: call.alibi_slopes is not None,
        Feature.SINKS: call.sinks is not None,
        Feature.BATCH: call.num_requests > 1,
        Feature.RAGGED: call.num_requests > 1 and bool((lengths != lengths[0]).any()),
    }
    return {feature for feature, present in asked.items() if present}


def require(kernel: Declared, call: AttentionCall, page_size: int | None = None) -> None:
    """Raise Unsupported if the kernel cannot take the call, or cannot run here."""
    reason = refusal(kernel, call, page_size) or _missing_symbols(kernel.support.package)
    if reason:
        raise Unsupported(reason)


def refuse(kernel: Declared, call: AttentionCall, page_size: int | None = None) -> Unsupported:
    """The exception for a form of K and V that the kernel does not support at all."""
    return Unsupported(refusal(kernel, call, page_size))


def refusal(kernel: Declared, call: AttentionCall, page_size: int | None = None) -> str | None:
    """Why the kernel cannot take the call on the call's device, or None.

    Args:
        page_size: tokens a page of the cache; None: K and V without a block table.
    """
    support = kernel.support
    reasons = [*_not_taken(kernel, call, page_size)]
    missing = None if reasons else unavailable(support, call.query.device.type)
    if missing:
        reasons.append(missing)
    return "; ".join(reasons) or None


def unavailable(support: Support, device: str) -> str | None:
    """Why a kernel cannot run on this machine's device ("cuda" or "cpu") whatever the call, or None.

    Modules are located, not imported; a broken one raises when called.
    """
    if device not in support.devices:
        return {"cpu": "runs on an NVIDIA GPU only", "cuda": "runs on a CPU only"}[device]
    missing = [m for m in (support.package.module, *support.package.also) if not _is_there(m)]
    if missing:
        return f"{' and '.join(missing)} not installed; to get it: {support.package.install}"
    if device == "cuda":
        if not torch.cuda.is_available():
            return "PyTorch sees no NVIDIA GPU: its build and the driver do not match"
        have, low, high = torch.cuda.get_device_capability(), support.capability, support.last_capability
        if have < low or (high and have > high):
            upwards = "up" if high is None else f"to {high[0]}.{high[1]}"
            return f"takes compute capability {low[0]}.{low[1]} {upwards}; this GPU has {have[0]}.{have[1]}"
    return None


def try_once(run: Run, kernel: Declared) -> Run:
    """`run`, after a trial run: a feature missing from the build becomes Unsupported, with the build's
    message.

    Out-of-memory and CUDA errors, after which nothing works, pass unchanged; Triton raises its own
    RuntimeError for these, so PyTorch is checked as well.
    """
    try:
        run()
    except torch.AcceleratorError:
        raise
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        status, reason = status_of(error)
        if status is Status.OUT_OF_MEMORY:
            raise
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        raise Unsupported(f"{kernel.provider}'s {kernel.name} refuses: {reason}") from error
    return run


def load(package: Package, module: str | None = None) -> Any:
    """Import a package's module; raises Unsupported with the import error and how to install it."""
    try:
        return import_module(module or package.module)
    except Exception as error:  # a build for another torch fails with OSError or ImportError
        message = f"{package.module} cannot be loaded ({first_line(error)}); to get it: {package.install}"
        raise Unsupported(message) from error


def _not_taken(kernel: Declared, call: AttentionCall, page_size: int | None) -> Iterable[str]:
    support, asked = kernel.support, features_of(call, page_size)
    dtype = str(call.query.dtype).removeprefix("torch.")
    if dtype not in support.dtypes:
        yield f"{kernel.name} takes {' and '.join(support.dtypes)}, not {dtype}"
    head_sizes = support.head_sizes_of(paged=page_size is not None)
    if call.head_dim not in head_sizes:
        form = "" if head_sizes is support.head_sizes else " with a block table"
        yield f"head size {call.head_dim}: {kernel.name} takes {head_sizes}{form}"
    lacking = [feature for feature in Feature if feature in asked - support.features]
    for feature in lacking:
        if feature in support.because:
            reason = support.because[feature]
            yield reason.replace("{heads}", str(call.num_heads)).replace("{kv_heads}", str(call.num_kv_heads))
    unexplained = [feature.value for feature in lacking if feature not in support.because]
    if unexplained:
        yield f"{kernel.name} takes no {' and no '.join(unexplained)}"
    for pair in support.apart:
        if pair.forbids(asked, call.head_dim):
            yield f"{kernel.name} takes no {pair.one.value} together with {pair.other.value}{pair.where}"
    if page_size is not None and Feature.PAGED in support.features and page_size not in support.page_sizes:
        yield f"block size {page_size}: {kernel.name} takes {support.page_sizes}"


@cache
def _missing_symbols(package: Package) -> str | None:
    """What an adapter relies on inside the package and does not find, or None; imports it."""
    return "; ".join(problems(package.needs)) or None


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except Exception:  # a parent package that is missing or fails to import
        return False
