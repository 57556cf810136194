"""Noise from elsewhere, from made-up files of /proc and /sys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from harness.measure import elsewhere
from harness.measure.elsewhere import Reading

Columns = Sequence[int]  # user nice system idle iowait irq softirq steal


def host(root: Path, cpus: Mapping[int, Columns], processes: Mapping[int, tuple[int, str, Columns]]) -> Path:
    """A host's files: each CPU's columns, and each process's parent, name and times."""
    stat = "".join(f"cpu{n} {' '.join(map(str, row))} 0 0\n" for n, row in cpus.items())
    (root / "proc").mkdir(parents=True, exist_ok=True)
    (root / "proc/stat").write_text(f"cpu  9 9 9 9 9 9 9 9 9 9\n{stat}intr 5 0\n")
    (root / "proc/loadavg").write_text("1.68 5.27 7.17 1/90 7771\n")
    (root / "proc/cpuinfo").write_text("processor : 0\ncpu MHz\t\t: 2000.0\ncpu MHz\t\t: 3000.0\n")
    for zone, temperature in (("thermal_zone0", "41000\n"), ("thermal_zone1", "67500\n")):
        (root / "sys/class/thermal" / zone).mkdir(parents=True, exist_ok=True)
        (root / "sys/class/thermal" / zone / "temp").write_text(temperature)
    for pid, (parent, name, times) in processes.items():
        (root / f"proc/{pid}").mkdir(exist_ok=True)
        text = f"{pid} ({name}) S {parent} 1 1 0 -1 0 0 0 0 0 {' '.join(map(str, times))} 20 0 1\n"
        (root / f"proc/{pid}/stat").write_text(text)
    return root


def reading(root: Path, busy: int, own: int, steal: int = 0) -> Reading:
    """After `busy` ticks of CPU 0, of which a child of process 10 has used `own`."""
    cpus = {
        0: (100 + busy, 0, 0, 500 - busy - steal, 0, 0, 0, steal),
        1: (0, 0, 0, 500, 0, 0, 0, 0),
        2: (9999 * busy, 0, 0, 1, 0, 0, 0, 0),  # not ours
    }
    processes = {
        10: (1, "run) x (", (5, 0, 0, 0)),
        11: (10, "engine", (own, 0, 0, 0)),
        12: (1, "other", (busy,) * 4),
    }
    return elsewhere.read(host(root, cpus, processes), cpus=[0, 1], pid=10)


def idle_before(tmp_path: Path) -> Reading:
    """The counters that `reading` counts from, 400 idle ticks of either CPU before."""
    cpus = {n: (100 if n == 0 else 0, 0, 0, 100, 0, 0, 0, 0) for n in range(3)}
    return elsewhere.read(host(tmp_path, cpus, {10: (1, "run", (5, 0, 0, 0))}), cpus=[0, 1], pid=10)


def test_other_processes_are_what_the_run_and_its_children_did_not_use(tmp_path: Path) -> None:
    before = idle_before(tmp_path)
    load = elsewhere.between(before, reading(tmp_path, busy=300, own=100))
    # 200 of 800 ticks of two CPUs, in 400 ticks of time.
    assert (load.cpus, load.other_cpus, load.steal_pct) == (2, 0.5, 0.0)
    alone = elsewhere.between(before, reading(tmp_path, busy=300, own=300))
    assert alone.other_cpus == 0.0


def test_steal_is_not_another_process_s(tmp_path: Path) -> None:
    before = idle_before(tmp_path)
    load = elsewhere.between(before, reading(tmp_path, busy=100, own=100, steal=40))
    assert (load.other_cpus, load.steal_pct) == (0.0, 5.0)


def test_a_steal_counter_that_steps_back_is_no_steal(tmp_path: Path) -> None:
    """As on a virtual machine that was moved to another host."""
    before = idle_before(tmp_path)
    before = replace(before, ticks=(*before.ticks[:-1], 50))
    load = elsewhere.between(before, reading(tmp_path, busy=300, own=300))
    assert (load.steal_pct, load.other_cpus) == (0.0, pytest.approx(0.0, abs=0.2))


def test_load_clock_and_heat_are_as_the_files_say(tmp_path: Path) -> None:
    load = elsewhere.between(idle_before(tmp_path), reading(tmp_path, 0, 0), gpu_processes=3)
    assert (load.load_before, load.mhz_before, load.temperature_after_c) == (1.68, 2500.0, 67.5)
    assert load.gpu_processes_before == 3


@pytest.mark.parametrize("missing", ["proc/stat", "proc/10/stat", None])
def test_what_the_host_does_not_say_is_not_known(tmp_path: Path, missing: str | None) -> None:
    empty = elsewhere.read(tmp_path / "nowhere", cpus=[0, 1], pid=10)
    before = idle_before(tmp_path)
    if missing:
        (tmp_path / missing).unlink()
    after = elsewhere.read(tmp_path, cpus=[0, 1], pid=10) if missing else empty
    assert elsewhere.between(before, after).other_cpus is None
    assert elsewhere.between(before, before).other_cpus is None  # no time has passed


def test_this_process_reads_its_own_host() -> None:
    load = elsewhere.between(elsewhere.read(), elsewhere.read())
    assert load.cpus >= 1
