"""sdpa.math: attention of one layer alone, with a dense buffer and block by block, on captured calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.calls import capture, joined_call
from harness.calls.capture import AttentionCall
from harness.calls.shape import AttentionShape
from harness.engine.child import Child, EngineFailed
from harness.engine.generation import generating
from harness.experiments.backends.engine import engine_spec, point, prompts
from harness.experiments.backends.options import SDPA, BackendsConfig, Size
from harness.kernels import PagedKV, Run, dense_buffer
from harness.kernels.support import refusal
from harness.kernels.torch_sdpa import TorchSdpa
from harness.measure import memory, timers
from harness.measure.budget import Budget
from harness.measure.sampler import Series
from harness.measure.timers import Step
from harness.models import ModelSource
from harness.replay import random_call
from harness.replay.arms import Bound
from harness.replay.series import Judge
from harness.running.recorder import Recorder
from harness.running.sampling import Sampling
from harness.runs.record import Cell, Data, Result, Status, status_of
from patches.attention import BACKENDS

# An arm's call, and the bytes that it copies.
COPIES = {
    "gathered": (dense_buffer.attend_gathered, dense_buffer.buffer_bytes),
    "per_block": (dense_buffer.attend_per_block, dense_buffer.block_bytes),
}
ARMS = (("gathered", False), ("per_block", False), ("gathered", True))  # whether it is the control (A/A)
CAPTURED_FROM = {"cuda": "FLASH_ATTN", "cpu": "CPU_ATTN"}  # where the requested one is not supported
Captured = dict[Size, Path | str]  # the file with a cell's call, or why there is none


def sdpa_series(size: Size) -> str:
    """The series of a cell."""
    return f"{SDPA} batch={size[0]} input={size[1]}"


def kv_length(config: BackendsConfig, size: Size) -> int:
    """Tokens in K and V of each prompt: of the prefill, or of the decoding step in the middle."""
    return size[1] + (config.output_len or 0) // 2


def capture_calls(
    config: BackendsConfig, recorder: Recorder, source: ModelSource, sizes: Sequence[Size], folder: Path
) -> Captured:
    """Prefill every cell's prompts in an engine and save the first layer's attention call, in a file each.

    The engine is gone when this returns, as its KV cache leaves no memory for what follows. It is eager:
    replayed CUDA graphs bypass the hook.

    Args:
        sizes: at least one.
    """
    kind = recorder.record.device.kind
    name = next((name for name in config.engine_backends() if name in BACKENDS), CAPTURED_FROM[kind])
    recorder.say(f"starting vLLM with {name} to capture attention calls ...")
    captured: Captured = {}
    reason = ""
    spec = engine_spec(config.model_copy(update={"num_gpu_blocks_override": None}), source, name, sizes)
    try:
        with (
            Child(generating, replace(spec, enforce_eager=True), source) as engine,
            recorder.bar("capturing", len(sizes)) as bar,
        ):
            with recorder.update_record() as record:
                record.captured_from = engine.facts.settings
            for size in sorted(sizes, key=lambda size: size[0] * size[1]):
                path = folder / f"{size[0]}x{size[1]}.safetensors"
                engine.ask("capture", prompts(config, source, size[0], kv_length(config, size)), path)
                captured[size] = path
                bar.update()
    except EngineFailed as error:
        reason = f"the engine could not capture it: {error}"
        lost = f"{len(sizes) - len(captured)} of {len(sizes)}"
        recorder.notice(f"{SDPA}: random Q, K and V for cells that could not be captured ({lost}): {error}")
    return {size: captured.get(size, reason) for size in sizes}


@dataclass
class AttentionAlone:
    """The cells of sdpa.math."""

    config: BackendsConfig
    recorder: Recorder
    source: ModelSource
    sampling: Sampling

    @cached_property
    def timer(self) -> timers.Timer:
        """Of single calls."""
        return timers.for_device(self.sampling.device)

    def measure(self, size: Size, call: Path | str, budget: Budget) -> None:
        """Measure one series: both arms of a cell.

        Args:
            call: see Captured.
        """
        self.sampling.sample(self._series(size, call), self.timer, budget, self.config.seed)

    def _series(self, size: Size, captured: Path | str) -> Series:
        """The arms on the cell's call, checked, or the reason why one cannot run."""
        series = Series([], [], pairs=[(0, 1), (0, 2)])
        remark = None if isinstance(captured, Path) else f"random Q, K and V: {captured}"
        for arm, control in ARMS:
            cell = self._cell(size, arm, "synthetic" if remark else "captured")
            result = Result(cell, sdpa_series(size), Status.OK, remark, control=control, readings={})
            series.results.append(result)
            series.steps.append(None)
        try:
            call, kv = self._inputs(size, captured)
            judge = Judge(call)
        except Exception as error:
            for n in range(len(ARMS)):
                series.fail(n, *status_of(error))
            return series
        for n, result in enumerate(series.results):
            try:
                series.steps[n] = self._step(call, kv, judge, result)
            except Exception as error:
                series.fail(n, *status_of(error))
        return series

    def _inputs(self, size: Size, captured: Path | str) -> tuple[AttentionCall, PagedKV]:
        """The call on the device, with its K and V in blocks. Raises ArmFailed if sdpa.math cannot take
        it.
        """
        device = self.sampling.device
        if isinstance(captured, str):
            call = random_call.make(self._shape(size), device, self.config.seed)
        else:
            call = capture.load_own(captured, device)
            if self.config.output_len:
                call = joined_call.last_token(call)
        if reason := refusal(TorchSdpa("math", device), call):
            raise ArmFailed(Status.UNSUPPORTED, reason)
        return call, random_call.in_blocks(call, self.config.block_size or 1).one_segment

    def _step(self, call: AttentionCall, kv: PagedKV, judge: Judge, result: Result) -> Step:
        """The arm's call, after one correct run; the bytes it copies go into the result's readings."""
        bind, copied = COPIES[result.cell.arm]
        result.readings["buffer_bytes"] = [float(copied(kv))]
        step, extra = check_step(bind(call, kv), judge, self.sampling.device)
        if self.sampling.device == "cuda":
            result.readings["extra_bytes"] = [float(extra)]
        return step

    def _shape(self, size: Size) -> AttentionShape:
        """Of one layer's attention call."""
        batch_size, length = size[0], kv_length(self.config, size)
        return AttentionShape(
            batch_size=batch_size,
            query_len=1 if self.config.output_len else length,
            kv_len=length,
            num_heads=self.source.num_heads,
            num_kv_heads=self.source.num_kv_heads,
            head_dim=self.source.head_dim,
            dtype=self._dtype(),
        )

    def _dtype(self) -> Any:
        """The dtype of random Q, K and V: the engines', else the requested one."""
        dtypes = [engine.dtype for engine in (self.recorder.record.engines or {}).values()]
        named = {"auto": "bfloat16", "half": "float16", "float": "float32"}
        return dtypes[0] if dtypes else named.get(self.config.dtype, self.config.dtype)

    def _cell(self, size: Size, arm: str, data: Data) -> Cell:
        return Cell(
            stage="kernel",
            kernel="scaled_dot_product_attention",
            provider=f"PyTorch {self.recorder.record.versions['torch']} math",
            arm=arm,
            spread_k=1,
            block_size=self.config.block_size or 0,
            layer=None,
            data=data,
            point=point(size),
        )


class ArmFailed(RuntimeError):
    """An arm cannot run on a call, or computes a wrong result."""

    def __init__(self, status: Status, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def check_step(run: Run, judge: Judge, device: str) -> tuple[Step, int]:
    """A step, after one checked run, and the bytes that it allocated on top of its inputs.

    Raises:
        ArmFailed: the output differs from the float32 reference.
    """
    before = memory.now_bytes(device)
    memory.start_peak(device)
    output = run()
    peak = memory.peak_bytes(device) - before
    if problem := judge.objection(Bound(run), output):
        raise ArmFailed(Status.WRONG_OUTPUT, problem)
    return Step(run), peak
