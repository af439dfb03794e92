"""Whole updates: on-policy NFT is verl's GRPO, and any NFT is what plain transformers gives, in every mode."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.launch import python_path
from tests.support.rollouts import rollout_rows, write_json_lines
from tests.support.tiny_model import byte_tokenizer, save_tiny_model

WORKER = Path(__file__).with_name("nft_gradient_worker.py")
ROOT = Path(__file__).parents[2]
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """Two groups of eight without old log-probs (on-policy), and three with some that are far off.

    Those three have 2, 4 and 2 responses: in micro-batches of 8 on two ranks, the second rank has nothing but fillers.
    """
    folder = tmp_path_factory.mktemp("nft_gradients")
    save_tiny_model(folder / "model")
    write_json_lines(folder / "even.jsonl", rollout_rows(2, responses=(8, 8)))
    tokenizer, generator = byte_tokenizer(), random.Random(0)
    rows = rollout_rows(3, responses=(2, 4), seed=3)
    assert [len(row["responses"]) for row in rows] == [2, 4, 2]
    for row in rows:
        row["response_ids"] = [tokenizer(text)["input_ids"] for text in row["responses"]]
        row["old_log_probs"] = [[-6 + generator.gauss(0, 1) for _ in ids] for ids in row["response_ids"]]
    write_json_lines(folder / "uneven.jsonl", rows)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("ranks", [1, 2])
def test_gradients_of_updates_are_equal_in_every_mode(workspace, ranks):
    """{ranks} x {SP 1, 2} x {padded, packed, packed with shared prompts} x micro-batches of 1, 2, 8 and by tokens, and
    by tokens with a fused head. The objectives take turns in these modes.

    On-policy, sqrt((1 - r) / r) against verl's vanilla policy loss on (reward - mean) / population standard deviation,
    1 - r on reward - mean, rewards 0 and 1, both through verl's update. Off-policy, every ratio and reduction against
    the equation. Each by the offline trainer, and by the policy loss `nft` in verl's actor update.
    """
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    # Some installed package brings a `tests` of its own: this repository's comes first.
    environment = os.environ | {"PYTHONPATH": python_path(ROOT)}
    ended = subprocess.run(
        [*launcher, str(WORKER), str(workspace)],
        check=False,
        capture_output=True,
        text=True,
        timeout=900,
        env=environment,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    results = json.loads((workspace / f"nft_result_{ranks}.json").read_text())

    covered = {(r["mode"]["sp"], r["mode"]["packed"], r["mode"]["micro"]) for r in results}
    assert covered == {
        (sp, packed, micro)
        for sp in range(1, ranks + 1)
        for packed in ((True, False) if sp == 1 else (True,))
        for micro in (1, 2, 8, "dynamic")
    }
    assert len({(r["what"], r["online"]) for r in results}) == 12
    for name in ("sp", "packed", "share", "micro", "fused"):  # every comparison meets every value of every setting
        seen = {(r["what"], r["online"], r["mode"][name]) for r in results}
        assert len(seen) == 12 * len({r["mode"][name] for r in results}), name
    packing = {(r["what"], r["online"], r["mode"]["packed"], r["mode"]["share"], r["mode"]["sp"]) for r in results}
    assert len(packing) == 12 * (3 if ranks == 1 else 5)
    wrong = [r for r in results if r["error"] > TOLERANCE * max(1.0, r["scale"])]
    assert not wrong
    assert all(r["scale"] > 1e-2 for r in results), "gradients too small for the comparison to mean anything"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_an_update_without_dropped_or_masked_answers_is_that_of_a_batch_which_never_had_them(workspace):
    """Every objective's loss in every reduction, with fillers where the answers were, unevenly on two ranks, and with
    the answers themselves, masked as truncated ones are; a mini-batch of masked ones alone is no step."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    worker = WORKER.with_name("dropped_answers_worker.py")
    ended = subprocess.run(
        [*launcher, str(worker), str(workspace)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONPATH": python_path(ROOT)},
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    results = json.loads((workspace / "dropped.json").read_text())
    assert len(results) == 12
    assert not [r for r in results if max(r["error"], r["masked_error"]) > TOLERANCE * max(1.0, r["scale"])]
    assert all(r["scale"] > 1e-3 for r in results), "gradients too small for the comparison to mean anything"
