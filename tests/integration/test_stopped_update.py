"""An update that a signal stops between two mini-batches, and that another run finishes, is the update in one piece."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.launch import python_path
from tests.support.rollouts import rollout_rows, write_json_lines
from tests.support.tiny_model import save_tiny_model

WORKER = Path(__file__).with_name("stopped_update_worker.py")
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_update_in_pieces_is_the_update_in_one_piece(tmp_path):
    save_tiny_model(tmp_path / "model")
    write_json_lines(tmp_path / "even.jsonl", rollout_rows(2, responses=(8, 8)))
    ended = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", WORKER, tmp_path],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": python_path(ROOT)},
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    result = json.loads((tmp_path / "stopped_update.json").read_text())
    assert result["whole"] == result["continued"] == [8, 8]
    assert result["stopped"] == [1, 8]
    assert result["stopped_again"] == [2, 8]  # however often it is stopped, it gets on
    assert result["same"] and min(result["moved"]) > 1e-4
    assert result["schedule"] == [0, 0, 1]
