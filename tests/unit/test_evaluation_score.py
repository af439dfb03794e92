"""From responses to numbers: verdicts, votes by equivalence, reward-model scores, resuming."""

import json

import pytest

from tests.support.evaluation import write_run
from verl_ext.errors import DataError, UserError
from verl_ext.evaluation.config import read_config
from verl_ext.evaluation.score import score
from verl_ext.evaluation.store import Lines, graded_file, samples_file
from verl_ext.evaluation.summary import read_summary
from verl_ext.evaluation.voting import answer_groups
from verl_ext.reward.policy import QWEN, STRICT
from verl_ext.reward.pool import GraderPool

RESPONSES = [
    ["\\boxed{\\frac{1}{2}}", "\\boxed{0.5}", "\\boxed{2}", "it was cut off"],
    ["\\boxed{3}", "\\boxed{x=7}", "\\boxed{7}", "so 5"],
]
GOLDS = ["0.5", "5"]


@pytest.fixture(scope="module")
def pool():
    with GraderPool(workers=1, timeout_s=30.0) as pool:
        yield pool


def scored(folder, *keys):
    return score(read_config([f"output_dir={folder}", "grader_workers=1", *keys]))


def test_numbers_of_a_case_computed_by_hand(tmp_path):
    write_run(tmp_path, RESPONSES, GOLDS)
    numbers = scored(tmp_path)["benchmarks"]["own"]
    assert (numbers["problems"], numbers["samples"], numbers["samples_asked"], numbers["k"]) == (2, 8, 8, 4)
    assert numbers["avg"]["value"] == pytest.approx((2 / 4 + 0 / 4) / 2)
    assert {k: round(estimate["value"], 12) for k, estimate in numbers["pass"].items()} == {
        "1": 0.25,
        "2": pytest.approx((1 - 1 / 6) / 2),
        "4": 0.5,
    }
    assert numbers["maj"]["4"]["value"] == 0.5  # 1/2 and 0.5 are one answer; x=7 and 7 outvote 3
    assert (numbers["truncated"], numbers["no_answer"]) == (1 / 8, 2 / 8)
    assert numbers["avg"]["standard_error"] == pytest.approx(0.25 / 2**0.5, rel=0.03)
    assert numbers["mean_tokens_right"] != numbers["mean_tokens_wrong"]


def test_each_grader_has_its_own_numbers_in_one_summary(tmp_path):
    write_run(tmp_path, RESPONSES, GOLDS)
    own, qwen = scored(tmp_path), scored(tmp_path, "grader=qwen")
    assert own["benchmarks"]["own"]["avg"]["value"] == 0.25
    assert qwen["benchmarks"]["own"]["avg"]["value"] == 0.375  # `so 5` counts: its last number
    assert read_summary(tmp_path)["graders"] == {"default": own, "qwen": qwen}


def test_every_sample_is_written_with_its_verdict(tmp_path):
    write_run(tmp_path, RESPONSES, GOLDS)
    scored(tmp_path)
    records = list(Lines(graded_file(tmp_path, "default", "own")).read())
    first, last = records[0], records[3]
    assert (first["prediction"], first["correct"], first["status"]) == ("\\frac{1}{2}", True, "ok")
    assert (last["prediction"], last["correct"], last["status"]) == (None, False, "no_answer")
    wanted = {"prompt", "response", "prediction", "correct", "status", "tokens", "finish_reason", "gold"}
    assert all(wanted <= set(record) for record in records)


def test_a_second_start_grades_nothing_twice_and_gives_the_same_numbers(tmp_path):
    write_run(tmp_path, RESPONSES, GOLDS)
    first = scored(tmp_path)
    path = graded_file(tmp_path, "default", "own")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][:20])
    assert scored(tmp_path) == first
    assert path.read_text().splitlines(keepends=True)[:3] == lines[:3]
    assert len(list(Lines(path).read())) == 8


def test_other_options_of_the_grader_grade_anew(tmp_path, capsys):
    write_run(tmp_path, [["<think>\\boxed{5}</think> \\boxed{6}", "\\boxed{5}"]], ["5"])
    assert scored(tmp_path)["benchmarks"]["own"]["avg"]["value"] == 0.5
    assert scored(tmp_path, "after_think=true")["benchmarks"]["own"]["avg"]["value"] == 0.0
    assert "graded with other options: grading anew" in capsys.readouterr().err


def test_samples_that_were_not_asked_for_and_problems_without_one_do_not_count(tmp_path):
    write_run(tmp_path, RESPONSES, GOLDS)
    more = json.loads((tmp_path / "run.json").read_text())
    more["benchmarks"]["own"].update(n_samples=1, problems=3)
    (tmp_path / "run.json").write_text(json.dumps(more))
    summary = scored(tmp_path)
    numbers = summary["benchmarks"]["own"]
    assert (numbers["samples"], numbers["samples_asked"], summary["complete"]) == (2, 3, False)
    assert numbers["avg"]["value"] == 0.5


def test_reward_model_scores_choose_and_vote(tmp_path):
    write_run(tmp_path, RESPONSES, GOLDS)
    values = [[-1.0, -2.0, 3.0, 0.0], [0.5, 0.1, 0.1, 0.9]]
    rows = [
        {"benchmark": "own", "problem": p, "sample": s, "score": value}
        for p, samples in enumerate(values)
        for s, value in enumerate(samples)
    ]
    path = tmp_path / "scores.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rm = scored(tmp_path, f"rm_scores={path}")["benchmarks"]["own"]["rm"]
    assert rm["best"]["4"]["value"] == 0.0  # the best of the first problem is 2, of the second the one without answer
    assert rm["best"]["1"]["value"] == 0.25
    # Weights from the lowest score up: 1 + 0 for 1/2, 5 for 2.
    assert rm["weighted_majority"]["4"]["value"] == 0.0
    path.write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(DataError, match="rm_scores: no score for own problem 0 sample 1"):
        scored(tmp_path, f"rm_scores={path}")
    path.write_text('{"benchmark": "own", "problem": 0, "score": 1}\n')
    with pytest.raises(DataError, match="scores.jsonl: row 0: expected benchmark, problem, sample and score"):
        scored(tmp_path, f"rm_scores={path}")


def test_a_tolerance_of_the_problem_counts(tmp_path):
    write_run(tmp_path, [["\\boxed{3.2}", "\\boxed{3.4}"]], ["3.14"])
    path = samples_file(tmp_path, "own")
    path.write_text(path.read_text().replace('"tolerance": null', '"tolerance": 0.1'))
    assert scored(tmp_path)["benchmarks"]["own"]["avg"]["value"] == 0.5


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="run.json: not found; is this the output_dir"):
        scored(tmp_path)
    write_run(tmp_path, RESPONSES, GOLDS)
    samples_file(tmp_path, "own").write_text("")
    with pytest.raises(UserError, match="no sample has been generated"):
        scored(tmp_path)
    samples_file(tmp_path, "own").unlink()
    with pytest.raises(DataError, match="own.jsonl: not found; `generate` has not come so far"):
        scored(tmp_path)


@pytest.mark.parametrize(
    ("predictions", "groups"),
    [
        (["\\frac{1}{2}", "0.5", "1/2", "2"], [1, 1, 1, 2]),
        (["\\sqrt{20}", "2\\sqrt{5}", None, "\\sqrt{20}"], [1, 1, None, 1]),
        (["x=3", "3", "4", "(1,2)", "(1, 2)"], [1, 1, 2, 3, 3]),
    ],
)
def test_votes_are_counted_by_equivalence(pool, predictions, groups):
    assert answer_groups(predictions, [False] * len(predictions), pool, STRICT) == groups


def test_all_right_answers_are_one_group_and_the_harness_s_equality_is_its_own(pool):
    assert answer_groups(["5", "5.0001", "7"], [True, True, False], pool, STRICT) == [0, 0, 1]
    assert answer_groups(["50", "0.5"], [False, False], pool, STRICT) == [1, 2]
    assert answer_groups(["50", "0.5"], [False, False], pool, QWEN) == [1, 1]
