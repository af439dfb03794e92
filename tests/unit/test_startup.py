"""Where the seconds before the first step went."""

from __future__ import annotations

import time

import psutil
import pytest

from verl_ext.trainer import startup


def test_phases_follow_one_another_and_add_up_to_the_age_of_the_process(monkeypatch):
    monkeypatch.setattr(startup, "_phases", {})
    startup.reached("imports")
    startup.reached("workers and servers")
    age = time.time() - psutil.Process().create_time()
    found = startup.metrics()
    assert list(found) == ["perf/startup/imports", "perf/startup/workers_and_servers", "perf/startup_seconds"]
    assert found["perf/startup_seconds"] == pytest.approx(age, abs=0.5)
    assert found["perf/startup_seconds"] == pytest.approx(sum(list(found.values())[:2]))
    assert 0 <= found["perf/startup/workers_and_servers"] < 0.5
    assert startup.line() == (
        f"ready after {found['perf/startup_seconds']:.1f} s: imports {found['perf/startup/imports']:.1f}, "
        "workers and servers 0.0"
    )
