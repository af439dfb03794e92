"""From grades to rewards: coding, shaping, options and run metrics."""

import asyncio
import logging
import subprocess
import sys

import numpy as np
import pytest

from verl_ext.errors import ConfigError
from verl_ext.reward.grader import Grade
from verl_ext.reward.metrics import FailureWatch, grade_metrics
from verl_ext.reward.options import OverlongOptions, RewardOptions, read_options
from verl_ext.reward.score import compute_score, gold_of, policy_for, reward_of

RIGHT = Grade(True, "5", "ok", 0.25)
WRONG = Grade(False, "6", "ok", 0.25)
LOST = Grade(False, None, "timeout", 5.0)
BOXED = "\\boxed{5}"


@pytest.mark.parametrize(("coding", "low", "high"), [("zero_one", 0.0, 1.0), ("minus_one_one", -1.0, 1.0)])
def test_score_coding(coding, low, high):
    options = RewardOptions(score_coding=coding)
    assert reward_of(RIGHT, BOXED, 10, options)["score"] == high
    assert reward_of(WRONG, BOXED, 10, options)["score"] == low
    assert reward_of(LOST, BOXED, 10, options)["score"] == low


def test_reported_fields_are_the_same_and_of_the_same_types_for_every_grade():
    fields = [reward_of(grade, BOXED, 10, RewardOptions()) for grade in (RIGHT, WRONG, LOST)]
    types = [{name: type(value) for name, value in one.items()} for one in fields]
    assert types[0] == types[1] == types[2]
    assert list(fields[2].items())[1:] == [
        ("acc", 0.0),
        ("pred", ""),
        ("grade_status", "timeout"),
        ("grade_seconds", 5.0),
        ("grade_program", ""),
        ("grade_judge", ""),
        ("grade_requests", 0),
    ]


@pytest.mark.parametrize(
    ("length", "penalty"), [(0, 0.0), (60, 0.0), (61, -0.05), (70, -0.5), (80, -1.0)]
)  # DAPO, Eq. 13, with a buffer of 20 tokens before 80 and a factor of 1
def test_overlong_penalty_grows_over_the_buffer(length, penalty):
    options = RewardOptions(max_resp_len=80, overlong_buffer_cfg=OverlongOptions(enable=True, len=20, log=True))
    result = reward_of(RIGHT, BOXED, length, options)
    assert result["score"] == pytest.approx(1.0 + penalty)
    assert result["overlong_reward"] == pytest.approx(penalty)
    assert result["overlong"] is (penalty < 0)
    assert result["acc"] == 1.0


@pytest.mark.parametrize(("response", "bonus"), [(BOXED, 0.1), ("the answer is 5", 0.0), ("\\boxed{5", 0.0)])
def test_format_bonus_is_for_a_closed_box(response, bonus):
    options = RewardOptions(format_bonus=0.1)
    assert reward_of(WRONG, response, 10, options)["score"] == pytest.approx(bonus)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"timeouts": 3}, "reward.reward_kwargs.timeouts: .*reward.reward_kwargs.timeout_s"),
        ({"score_coding": "plus_minus"}, "score_coding"),
        ({"policy": "lenient"}, "policy: .*strict, published"),
        ({"warn_share": 2}, "warn_share"),
        ({"overlong_buffer_cfg": {"enable": True, "len": 20}}, "max_resp_len"),
        ({"overlong_buffer_cfg": {"enable": True}, "max_resp_len": 9}, "overlong_buffer_cfg.len"),
        ({"overlong_buffer_cfg": {"length": 20}}, "overlong_buffer_cfg.length"),
    ],
)
def test_options_that_cannot_work_are_one_line(given, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_options(given)
    assert "\n" not in str(caught.value)


def test_no_options_are_the_defaults():
    assert read_options(None) == read_options({}) == RewardOptions()


def test_tolerance_of_the_row_becomes_part_of_the_policy():
    assert policy_for("olympiadbench", {"error": "1e-1"}, RewardOptions()).absolute_tolerance == 0.1
    for error in (None, "", "None", "x"):
        assert policy_for("olympiadbench", {"error": error}, RewardOptions()) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("5", "5"),
        (5, "5"),
        (27.0, "27.0"),
        (["2", 3], ["2", "3"]),
        (np.array(["2", "3"]), ["2", "3"]),
        (np.float64(2.5), "2.5"),
    ],
)
def test_gold_of_any_column_type_is_text(given, expected):
    assert gold_of(given) == expected


def test_compute_score_grades_a_row():
    async def main():
        rows = [(BOXED, "5"), ("\\boxed{6}", 5), ("\\boxed{\\sqrt{20}}", "2\\sqrt{5}"), ("I do not know", "5")]
        return await asyncio.gather(*(compute_score("math500", response, gold, workers=1) for response, gold in rows))

    results = asyncio.run(main())
    assert [result["acc"] for result in results] == [1.0, 0.0, 1.0, 0.0]
    assert [result["grade_status"] for result in results] == ["ok", "ok", "ok", "no_answer"]


def test_compute_score_refuses_unknown_options_and_sources():
    with pytest.raises(ConfigError, match="timeout_s"):
        asyncio.run(compute_score("math500", BOXED, "5", timeouts=3))
    with pytest.raises(ConfigError, match="data_source"):
        asyncio.run(compute_score("mystery", BOXED, "5"))


def test_run_metrics_are_shares_and_time_per_thousand():
    metrics = grade_metrics(["ok", "no_answer", "timeout", "error", "unparsable_gold"], [0.0, 0.0, 5.0, 0.0, 0.0])
    assert metrics == {
        "reward/grader/no_answer": 0.2,
        "reward/grader/timeout": 0.2,
        "reward/grader/error": 0.2,
        "reward/grader/unparsable_gold": 0.2,
        "reward/grader/seconds_per_1000": 1000.0,
    }
    assert grade_metrics([], []) == {}
    assert grade_metrics(np.array(["ok"]), np.array([0.5]))["reward/grader/seconds_per_1000"] == 500.0


def test_run_warns_when_too_many_answers_have_no_verdict(caplog):
    watch = FailureWatch(warn_share=0.1, window=1000)
    with caplog.at_level(logging.WARNING):
        watch.add(["ok"] * 95 + ["timeout"] * 5)
        assert caplog.records == []
        watch.add(["error"] * 20)
    assert len(caplog.records) == 1
    assert "20.8% of the last 120 answers" in caplog.text
    assert "error 20, timeout 5" in caplog.text


def test_wrong_and_missing_answers_are_no_grader_failures(caplog):
    watch = FailureWatch(warn_share=0.0)
    with caplog.at_level(logging.WARNING):
        watch.add(["no_answer"] * 500 + ["ok"] * 500)
    assert caplog.records == []


def test_warning_is_not_repeated_for_every_answer(caplog):
    watch = FailureWatch(warn_share=0.1, window=200)
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            watch.add(["timeout"])
    assert 1 <= len(caplog.records) <= 10


def test_score_module_does_not_load_verl():
    code = (
        "import sys, verl_ext.reward.score; print([name for name in ('torch', 'ray', 'verl') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
