"""The script is run for real; every worked solution is checked with an evaluation of its own."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from verl_ext.reward.math.extraction import last_boxed

SCRIPT = Path(__file__).parents[2] / "data_preprocess" / "arithmetic.py"
QUESTION = re.compile(r"What is ([-+*() 0-9]+)\? Put your final answer within \\boxed\{\}\.")
STEP = re.compile(r"(-?\d+ [-+*] -?\d+) = (-?\d+)")


@pytest.fixture
def arithmetic(tmp_path):
    main = runpy.run_path(str(SCRIPT))["main"]

    def run(*options, folder="out"):
        main(["--local_dir", str(tmp_path / folder), *options])
        return {split: pq.read_table(tmp_path / folder / f"{split}.parquet").to_pylist() for split in ("train", "test")}

    return run


def expression_of(row):
    return QUESTION.fullmatch(row["extra_info"]["question"]).group(1)


@pytest.mark.parametrize("level", ["sums", "easy", "standard", "hard", "mixed"])
def test_every_step_and_every_answer_is_right(arithmetic, level):
    splits = arithmetic("--levels", level, "--train_size", "300", "--test_size", "100")
    for row in splits["train"] + splits["test"]:
        expression, solution = expression_of(row), row["extra_info"]["answer"]
        value = eval(expression)  # matched by QUESTION: digits, operators and parentheses only
        assert row["reward_model"] == {"style": "rule", "ground_truth": str(value)}
        assert last_boxed(solution) == str(value)
        steps, end = solution.split(". ", 1)
        assert end == f"The answer is \\boxed{{{value}}}."
        results = []
        for step in steps.split(", "):
            left, result = STEP.fullmatch(step).groups()
            assert eval(left) == int(result), solution
            results.append(int(result))
        assert results[-1] == value
        assert len(results) == len(re.findall(r" [-+*] ", expression)), solution


def test_default_is_three_terms(arithmetic):
    splits = arithmetic()
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 640, "test": 128}
    for index, row in enumerate(splits["train"]):
        question = row["extra_info"]["question"]
        assert re.fullmatch(r"\d{1,2} [-+] \d{1,2} [-+] \d{1,2}", expression_of(row))
        assert row["prompt"] == [{"role": "user", "content": question}]
        assert (row["data_source"], row["ability"]) == ("arithmetic/standard", "math")
        assert (row["extra_info"]["split"], row["extra_info"]["index"]) == ("train", index)


def test_no_problem_occurs_twice_even_with_its_terms_reordered(arithmetic):
    # 1800 of about 12,000 two-term sums: drawn without care, more than a hundred would repeat.
    splits = arithmetic("--levels", "easy", "--train_size", "1500", "--test_size", "300")
    keys = []
    for row in splits["test"] + splits["train"]:
        tokens = ["+", *expression_of(row).split()]
        keys.append(tuple(sorted(zip(tokens[::2], tokens[1::2], strict=True))))
    assert len(set(keys)) == 1800


def test_test_problems_do_not_depend_on_the_size_of_the_training_split(arithmetic):
    small = arithmetic("--train_size", "16", "--test_size", "32", folder="small")
    large = arithmetic("--train_size", "400", "--test_size", "32", folder="large")
    assert small["test"] == large["test"]
    assert small["train"] == large["train"][:16]


def test_neighbouring_seeds_share_hardly_any_problem(arithmetic):
    first, second = (arithmetic("--levels", "hard", "--seed", seed, folder=seed) for seed in ("0", "1"))
    shared = {expression_of(row) for row in first["train"]} & {expression_of(row) for row in second["train"]}
    assert len(shared) < 5  # of half a billion sums and more, a few may meet by chance


def test_levels_are_taken_in_turn(arithmetic):
    splits = arithmetic("--levels", "easy", "mixed", "--train_size", "10", "--test_size", "3")
    assert [row["data_source"] for row in splits["train"]] == ["arithmetic/easy", "arithmetic/mixed"] * 5
    assert any("*" in expression_of(row) or "(" in expression_of(row) for row in splits["train"])


def test_a_second_run_writes_the_same_bytes_from_another_folder_and_process(arithmetic, tmp_path):
    arithmetic("--levels", "hard", "mixed", "--seed", "7", "--messages")
    command = [sys.executable, str(SCRIPT), "--levels", "hard", "mixed", "--seed", "7", "--messages"]
    done = subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    for name in ("train.parquet", "test.parquet"):
        assert (tmp_path / "data/arithmetic" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()


def test_asking_for_more_problems_than_there_are_keeps_what_was_written(arithmetic, tmp_path, capsys):
    before = arithmetic("--train_size", "5", "--test_size", "5")
    with pytest.raises(SystemExit) as exit_:
        arithmetic("--levels", "easy", "--train_size", "100000", "--test_size", "10")
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: level easy: no new problem after") and error.count("\n") == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["test.parquet", "train.parquet"]
    assert pq.read_table(tmp_path / "out" / "train.parquet").to_pylist() == before["train"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--levels", "esay"], "esay"),
        (["--train_size", "0"], "--train_size"),
        (["--test_size", "many"], "--test_size"),
        (["--sed", "1"], "--sed"),
    ],
)
def test_a_wrong_option_is_one_line_and_exit_code_2(arithmetic, capsys, options, named):
    with pytest.raises(SystemExit) as exit_:
        arithmetic(*options)
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and named in error and error.count("\n") == 1


def test_sums_add_three_numbers_up_to_a_hundred(arithmetic):
    splits = arithmetic("--levels", "sums", "--train_size", "300", "--test_size", "100")
    expressions = [expression_of(row) for row in splits["train"] + splits["test"]]
    assert all(re.fullmatch(r"\d+ \+ \d+ \+ \d+", expression) for expression in expressions)
    assert max(int(number) for expression in expressions for number in expression.split(" + ")) <= 100
