"""A run's configuration: defaults < a YAML file < the command line, validated.

One file an experiment, made of the groups in `fields`. The YAML keys and the command line's options both come
from a model's fields. numpy is imported only for checks, so that --help stays quick.
"""

from __future__ import annotations

from harness.config.engine import EngineSpec
from harness.config.errors import ConfigError
from harness.config.fields import Common, Engine, KernelTiming, Sweep
from harness.config.loading import expects, load, value_types

__all__ = [
    "Common",
    "ConfigError",
    "Engine",
    "EngineSpec",
    "KernelTiming",
    "Sweep",
    "expects",
    "load",
    "value_types",
]
