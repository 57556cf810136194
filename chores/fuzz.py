"""python -m chores.fuzz [SECONDS]: the tests that look for inputs that end badly, with ever new seeds."""

from __future__ import annotations

import itertools
import secrets
import subprocess
import sys
import time

SECONDS = 600.0


def main(seconds: float = SECONDS) -> int:
    """Run rounds of the tests until the time is up; returns the status of the first that fails, or 0."""
    end, start = time.monotonic() + seconds, secrets.randbelow(2**32)
    for seed in itertools.count(start):
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "fuzz",
            f"--hypothesis-seed={seed}",
            "-p",
            "no:cacheprovider",
        ]
        if status := subprocess.run([*command, "tests"], check=False).returncode:
            print(f"again: {' '.join(command)} tests", file=sys.stderr)
            return status
        if time.monotonic() > end:
            break
    print(f"{seed - start + 1} rounds found nothing")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(float, sys.argv[1:])))
