"""Nothing that the harness starts on one machine can be reached from another."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from harness.engine.executors import HOST, joins_a_cluster
from tests.command_line import ROOT

LISTENING = """
import json, psutil
from harness.engine.executors import start_ray, stop_ray
start_ray([])
own = psutil.Process()
ports = [
    port.laddr.ip
    for process in [own, *own.children(recursive=True)]
    for port in process.net_connections("inet")
    if port.status == psutil.CONN_LISTEN
]
stop_ray()
print(json.dumps(ports))
"""


def test_ray_of_its_own_listens_on_the_loopback_alone() -> None:
    pytest.importorskip("ray")
    command = [sys.executable, "-c", LISTENING]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    addresses = json.loads(done.stdout.splitlines()[-1])
    assert len(addresses) > 3
    assert set(addresses) <= {HOST, "::1", f"::ffff:{HOST}"}


def test_a_cluster_of_the_user_s_own_keeps_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert not joins_a_cluster("ray")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert joins_a_cluster("ray")
    assert not joins_a_cluster("mp")
