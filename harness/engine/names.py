"""Names under which vLLM finds the harness in its workers."""

from __future__ import annotations

EXTENSION = "harness.engine.worker.WorkerExtension"  # EngineArgs.worker_extension_cls
