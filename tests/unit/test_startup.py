"""Where the seconds before the first step went."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest

from verl_ext.trainer.run import startup


def test_phases_follow_one_another_and_add_up_to_the_age_of_the_process(monkeypatch):
    monkeypatch.setattr(startup, "_phases", {})
    startup.reached("imports")
    startup.reached("workers and servers")
    found = startup.metrics()
    assert list(found) == ["perf/startup/imports", "perf/startup/workers_and_servers", "perf/startup_seconds"]
    assert found["perf/startup_seconds"] == pytest.approx(sum(list(found.values())[:2]))
    assert 0 <= found["perf/startup/workers_and_servers"] < 0.5
    assert startup.line() == (
        f"ready after {found['perf/startup_seconds']:.1f} s: imports {found['perf/startup/imports']:.1f}, "
        "workers and servers 0.0"
    )


def test_the_age_of_a_process_counts_from_its_start():
    """Told by the child when it knows, and by the clock of the one who started it."""
    code = "from verl_ext.trainer.run import startup; startup.reached('x'); import time; "
    code += "print(time.time(), startup.metrics()['perf/startup_seconds'])"
    before = time.time()
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        after = time.time()
        now, age = map(float, child.communicate()[0].split())
    assert before - 0.1 < now - age < after + 0.1
