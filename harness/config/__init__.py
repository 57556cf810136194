"""What a run is asked to do: defaults < a YAML file < the command line, validated.

One file an experiment, made of the groups in `fields`. A model's fields are the one source of the YAML keys
and of the command line's options. numpy is imported only once there is something to check, so that --help
stays quick.
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
