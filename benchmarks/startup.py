"""How long `run_vllm_prefill.py --help` takes. Target: under 0.5 s.

python benchmarks/startup.py [--output FILE]
"""

from __future__ import annotations

import subprocess
import sys
import time

from common import ROOT, parser_of, report


def main() -> None:
    parser = parser_of(__doc__)
    options = parser.parse_args()
    seconds = []
    for _ in range(11):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "run_vllm_prefill.py", "--help"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
        )
        seconds.append(time.perf_counter() - start)
    row = {
        "command": "--help",
        "median s": sorted(seconds)[5],
        "slowest s": max(seconds),
        "runs": len(seconds),
    }
    report("startup", [row], options.output)


if __name__ == "__main__":
    main()
