"""The command `python -m harness verify`: options checked before anything heavy, and what is printed."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from harness import cli
from harness.config import ConfigError
from harness.config.loading import load
from harness.experiments.starting import RunFailed
from harness.runs.writing import write_atomic
from harness.terminal import show
from harness.verify.options import VerifyConfig, check, plan


def run(options: dict[str, Any], argv: Sequence[str]) -> int:
    """Verify with the options typed; returns the exit status. Raises ConfigError and RunFailed."""
    config_file, dry_run = options.pop("config", None), options.pop("dry_run", False)
    config = load(VerifyConfig, cli.parse_options(VerifyConfig, options), config_file)
    check(config)
    if dry_run:
        show(plan(config))
        return cli.OK

    from harness.engine.child import EngineFailed
    from harness.models import ModelError
    from harness.verify import job, view

    started = time.monotonic()

    def keep(part: str, verified: job.Verified) -> None:
        print(f"{part} ({time.monotonic() - started:.0f} s)", file=sys.stderr)
        if config.output:
            write_atomic(config.output, view.as_json(verified, [*argv]))

    try:
        verified = job.run(config, keep)
    except ModelError as error:
        raise ConfigError(str(error)) from error
    except EngineFailed as error:
        raise RunFailed(str(error)) from error
    show(view.block(verified, [*argv]))
    return cli.OK if verified.equal else cli.FAILED
