"""Every benchmark runs at a tiny size, prints its table and keeps it; numbers of such a size mean nothing."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"

pytestmark = pytest.mark.timeout(600)


def run(name: str, *arguments: object) -> str:
    """What a benchmark prints."""
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def kept(path: Path) -> dict:
    """The file of a benchmark, which says where and with what it ran."""
    contents = json.loads(path.read_text())
    assert contents["versions"]["torch"] and contents["machine"]["device"] and contents["rows"]
    return contents


def write_stream(folder: Path) -> Path:
    """What a run without dynamic sampling leaves: every second group of two answers is all right."""
    (folder / "generations").mkdir(parents=True)
    rows = [
        {"uid": f"{group:04d}", "acc": float(group % 2 or answer == 0), "response_tokens": 10}
        for group in range(8)
        for answer in range(2)
    ]
    (folder / "generations" / "1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.slow
def test_the_update_of_nft_is_compared_with_grpo_and_shared_prompts_and_dynamic_sampling_with_their_peers(
    model_folder, tmp_path
):
    small = ["--prompts", 2, "--group-size", 2, "--rounds", 1, "--warmup", 0, "--gen-batch-size", 8]
    stream = ["--stream", write_stream(tmp_path / "stream"), "--replayed-steps", 400]
    parts = ["--part", "update", "sharing", "sampling", "--out", tmp_path]
    printed = run("nft_step.py", "--model", model_folder, *parts, *small, *stream)
    assert "| nft |" in printed and "| dr_grpo |" in printed
    update = kept(tmp_path / "nft_update.json")["rows"]
    assert all(row["seconds"] > 0 for row in update)
    sharing = {row["prompt : answer"]: row for row in kept(tmp_path / "nft_sharing.json")["rows"]}
    assert sharing["256 : 64"]["tokens (the bound)"] == pytest.approx((256 + 15 + 16 * 64) / (16 * 320))
    rows = kept(tmp_path / "nft_sampling.json")["rows"]
    ours, exact_rounds, large_rounds, verls = (row["tokens generated per token trained"] for row in rows)
    # half of the groups are usable: two generated for each trained, and what a way throws away on top
    assert ours == pytest.approx(2.0, abs=0.2)
    assert verls == pytest.approx(2.0, abs=0.2)
    assert exact_rounds == pytest.approx(20 / 9, abs=0.2)  # two groups from rounds of two
    assert large_rounds > 3.0


@pytest.mark.slow
def test_generation_is_compared_with_static_batches(model_folder, tmp_path):
    sizes = ["--slots", 4, "--requests", 6, "--longest", 16, "--rounds", 1, "--warmup", 0]
    printed = run(
        "rollout.py", "--model", model_folder, "--dtype", "float32", *sizes, "--out", tmp_path / "rollout.json"
    )
    rates = {row["way"]: row["tokens per second"] for row in kept(tmp_path / "rollout.json")["rows"]}
    assert rates.keys() == {"hf", "generate", "generate, sorted", "continuous"}
    assert "hf against the better static `generate`" in printed


@pytest.mark.slow
def test_graders_are_compared_on_the_same_answers(tmp_path):
    run("grader.py", "--answers", 12, "--workers", 1, "--rounds", 1, "--out", tmp_path / "grader.json")
    rows = kept(tmp_path / "grader.json")["rows"]
    assert [row["grader"] for row in rows] == ["verl_ext", "verl", "math-verify alone"]
    assert rows[0]["accepted"] >= 6 - rows[0]["right, not accepted"]


@pytest.mark.slow
def test_growth_is_fitted_and_memory_compared(model_folder, tmp_path):
    few = ["--lengths", 16, 64, "--prompts", 1, 2, "--group-sizes", 2, 4, "--samples", 1, 2, "--new-tokens", 4]
    run("scaling.py", "--model", model_folder, *few, "--rounds", 1, "--advantage-groups", 8, "--out", tmp_path)
    rows = kept(tmp_path / "scaling.json")["rows"]
    assert len(rows) == 5
    assert all(math.isfinite(row["exponent"]) for row in rows)
    ranks = kept(tmp_path / "scaling_sequence_parallelism.json")["rows"]
    assert [row["tokens of a sequence on a rank"] for row in ranks] == [64, 32]


@pytest.mark.slow
def test_the_start_of_a_trainer_is_taken_apart(model_folder, tmp_path):
    one = ["--trainers", "dft", "--ranks", 1, "--rounds", 1, "--warmup", 0]
    run("startup.py", "--model", model_folder, *one, "--out", tmp_path / "startup.json")
    seconds = {row["phase"]: row["seconds"] for row in kept(tmp_path / "startup.json")["rows"]}
    phases = ("launcher", "imports", "data", "ranks", "model", "log and checkpoint")
    assert sum(seconds[phase] for phase in phases) == pytest.approx(seconds["command to first step"], abs=0.01)


@pytest.mark.slow
def test_programs_are_graded_beside_verls_scorer_and_hostile_ones_end_with_their_status(tmp_path):
    from tests.support.isolation import LACKS

    if all(LACKS.values()):
        pytest.skip(f"no isolation works here: {LACKS}")
    out = tmp_path / "code.json"
    printed = run("code_reward.py", "--answers", 2, "--tests", 12, "--workers", 1, "--rounds", 1, "--out", out)
    rows = {row["grader"]: row for row in kept(out)["rows"]}
    assert "| prime_code |" in printed and "Start of a slot" in printed
    assert (rows["verl_ext"]["wrong, accepted"], rows["verl_ext"]["right, not accepted"]) == (0, 0)
    printed = run("code_reward_hostile.py", "--count", 30, "--workers", 1)
    assert "30 hostile programs and as many honest ones" in printed and "surprises" not in printed
