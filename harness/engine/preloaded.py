"""What children need before all else, imported once: in the process that they are forked from.

Imports take 10 to 30 s a process. None may touch CUDA, which a fork must not share; an import that fails
here fails again in the child, which says why.
"""

from __future__ import annotations

import os
from contextlib import suppress

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # read as vllm is imported
with suppress(Exception):
    import vllm.entrypoints.llm
    import vllm.v1.engine.llm_engine  # noqa: F401
