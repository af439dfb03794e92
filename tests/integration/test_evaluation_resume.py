"""Killed anywhere, an evaluation goes on to the same numbers, and generates and grades nothing twice."""

from __future__ import annotations

import json
import random

import pytest

from tests.support.evaluation import arguments, command, start, write_problems, write_run
from tests.support.launch import kill, wait_until
from verl_ext.evaluation.store import graded_file, samples_file
from verl_ext.evaluation.summary import read_summary

PROBLEMS, SAMPLES = 60, 2


def lines(path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def samples(folder) -> dict:
    records = [json.loads(line) for line in lines(samples_file(folder, "sums"))]
    found = {(record["problem"], record["sample"]): record for record in records}
    assert len(found) == len(records), "a sample was generated twice"
    return found


def numbers(folder) -> dict:
    return read_summary(folder)["graders"]["default"]


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    return write_problems(tmp_path_factory.mktemp("problems") / "sums.jsonl", PROBLEMS)


@pytest.fixture(scope="module")
def keys(model_folder, problems):
    def of(folder, *more):
        # One sequence at a time: each is computed alone in both runs, so that they are equal to the last digit.
        run = (f"n_samples={SAMPLES}", "max_num_seqs=1", "max_tokens=24")
        return arguments(model_folder, problems, folder, *run, *more)

    return of


@pytest.fixture(scope="module")
def uninterrupted(keys, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    result = command("run", *keys(folder))
    assert result.returncode == 0, result.stderr
    assert f"generate: {PROBLEMS * SAMPLES} of {PROBLEMS * SAMPLES}" in result.stderr
    return folder


@pytest.mark.slow
def test_killed_in_generate(keys, uninterrupted, tmp_path):
    log, path = tmp_path / "log.txt", samples_file(tmp_path, "sums")
    process = start("generate", keys(tmp_path), log)
    wait_until(lambda: len(lines(path)) >= 25, process, log)
    kill(process)
    before = lines(path)
    assert 25 <= len(before) < PROBLEMS * SAMPLES
    path.write_text("\n".join(before[:-1]) + "\n" + before[-1][:30])  # as a machine that loses power leaves it

    result = command("run", *keys(tmp_path))
    assert result.returncode == 0, result.stderr
    assert "its last line was cut off; removed" in result.stderr
    assert lines(path)[: len(before) - 1] == before[:-1]
    assert samples(tmp_path) == samples(uninterrupted)
    assert numbers(tmp_path) == numbers(uninterrupted)
    plots = {path.name: path.read_bytes() for path in (tmp_path / "plots").iterdir()}
    assert plots == {path.name: path.read_bytes() for path in (uninterrupted / "plots").iterdir()}


@pytest.mark.slow
def test_a_finished_run_generates_nothing_and_more_samples_keep_those_that_are_there(keys, uninterrupted, tmp_path):
    first = command("generate", *keys(tmp_path, "num_problems=5", "n_samples=1"))
    assert first.returncode == 0, first.stderr
    before = samples(tmp_path)
    again = command("generate", *keys(tmp_path, "num_problems=5", "n_samples=1"))
    assert (again.returncode, samples(tmp_path)) == (0, before) and "tokens/s" not in again.stderr
    assert command("generate", *keys(tmp_path, "num_problems=10")).returncode == 0
    more = samples(tmp_path)
    assert len(before) == 5 and len(more) == 20 and before.items() <= more.items()
    assert more.items() <= samples(uninterrupted).items()


@pytest.mark.slow
def test_killed_in_score(tmp_path):
    """Golds and answers that need sympy, so that there is something to interrupt."""
    generator = random.Random(0)
    golds = [f"\\sqrt{{{5 * n * n}}}" for n in range(2, 302)]
    responses = [[f"\\boxed{{{n * generator.choice([1, 1, 2])}\\sqrt{{5}}}}"] for n in range(2, 302)]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        write_run(folder, responses, golds)
    assert command("score", f"output_dir={whole}", "grader_workers=1").returncode == 0

    log, path = tmp_path / "log.txt", graded_file(killed, "default", "own")
    process = start("score", [f"output_dir={killed}", "grader_workers=1"], log)
    wait_until(lambda: len(lines(path)) >= 40, process, log)
    kill(process)
    before = lines(path)
    assert 40 <= len(before) < len(golds)

    result = command("score", f"output_dir={killed}", "grader_workers=1")
    assert result.returncode == 0, result.stderr
    assert lines(path)[: len(before)] == before and len(lines(path)) == len(golds)
    assert numbers(killed) == numbers(whole)
    assert 0.5 < numbers(whole)["benchmarks"]["own"]["avg"]["value"] < 0.8
