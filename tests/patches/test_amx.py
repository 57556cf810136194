"""AMX is asked for ahead of vLLM's CPU attention."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from harness import device

CALL = """
from dataclasses import replace
from harness.kernels import DenseKV
from harness.kernels.vllm_cpu import VllmCpuAttention
from tests.attention_calls import make_call

call = replace(make_call(length=64), isa="amx")
VllmCpuAttention().dense(call, DenseKV(call.key, call.value))()
"""


@pytest.mark.skipif(device.kind() == "cuda", reason="vLLM's CPU attention is a CPU's")
@pytest.mark.skipif(not torch.cpu._is_amx_tile_supported(), reason="this CPU has no AMX")
def test_a_kernel_alone_in_its_process_does_not_end_with_sigill():
    done = subprocess.run([sys.executable, "-c", CALL], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
