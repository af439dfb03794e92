"""What `sh/ray_cluster.sh` starts Ray with, and when it refuses to; Ray itself is a stand-in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RAY = 'printf "%s\\n" "$*" >> "$STARTED"; [[ $1 != start ]] || { echo "Ray runtime started"; exec sleep 600; }'


@pytest.fixture
def script(tmp_path):
    """A function: run the script in an environment whose Ray has this version."""
    commands = tmp_path / "venv" / "bin"
    commands.mkdir(parents=True)
    for name, body in (("python", f'exec {sys.executable} "$@"'), ("ray", RAY)):
        (commands / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (commands / name).chmod(0o755)
    environment = {
        **os.environ,
        "VENV": str(tmp_path / "venv"),
        "STATE_DIR": str(tmp_path / "state"),
        "STARTED": str(tmp_path / "started"),
    }

    def run(role: str, ray: str = "2.52.0", **more: str) -> subprocess.CompletedProcess:
        metadata = tmp_path / "packages" / f"ray-{ray}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True, exist_ok=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: ray\nVersion: {ray}\n")
        return subprocess.run(
            ["bash", str(ROOT / "sh" / "ray_cluster.sh"), role, *(["10.0.0.1:6379"] if role == "worker" else [])],
            env={**environment, "PYTHONPATH": str(tmp_path / "packages"), **more},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    yield run
    run("stop")


@pytest.mark.parametrize("role", ["head", "worker"])
def test_a_ray_without_tokens_is_refused(script, tmp_path, role):
    done = script(role, ray="2.51.2")
    assert done.returncode == 2
    assert "ray_cluster.sh: Ray 2.51.2 knows no tokens" in done.stderr
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(("mode", "host"), [("token", "0.0.0.0"), ("disabled", "127.0.0.1")])
def test_without_tokens_the_dashboard_answers_this_machine_alone(script, tmp_path, mode, host):
    done = script("head", RAY_AUTH_MODE=mode, RAY_AUTH_TOKEN="x")
    assert done.returncode == 0, done.stderr
    (started,) = (tmp_path / "started").read_text().splitlines()
    assert f"--dashboard-host={host} " in started
