"""What to install where a model needs another package than vLLM does."""

from __future__ import annotations

import re
from importlib import metadata

import patches
from harness.device import Kind


def install_torchvision(kind: Kind) -> str:
    """The command that installs the installed PyTorch's torchvision; PyPI's breaks next to a CPU build."""
    minor = re.match(r"2\.(\d+)", metadata.version("torch"))
    version = f"==0.{int(minor[1]) + 15}.*" if minor else ""  # as PyTorch's 2.11 has torchvision 0.26
    index = " from PyTorch's index of CPU builds" if kind == "cpu" else ""
    return f"pip install --no-deps 'torchvision{version}'{index}"


def describe_requirement(package: str) -> str:
    """In brackets, the versions of a package that the installed vLLM asks for; empty if it does not say."""
    distribution = (patches.installed_vllm() or "").partition(" ")[0]
    required = metadata.requires(distribution) or [] if distribution else []
    ranges = [re.match(rf"{package}\b *([^;]*)", each) for each in required]
    versions = next((match[1].strip(" ()") for match in ranges if match and match[1].strip()), "")
    return f" ({distribution} asks for {versions})" if versions else ""
