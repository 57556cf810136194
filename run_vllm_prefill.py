"""The main job: a real prefill in vLLM, and its attention calls again under other memory layouts."""

import sys

from harness.__main__ import main_job

if __name__ == "__main__":  # vLLM's worker processes import this file again
    sys.exit(main_job())
