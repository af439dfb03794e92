"""Problems and gold answers: by name, from local folders, from files of one's own; what is missing is named."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from verl_ext.errors import ConfigError, DataError
from verl_ext.evaluation.benchmarks import BENCHMARKS, canonical_names, fingerprint, load_problems

DATA = Path(os.environ.get("VERL_EXT_DATA") or Path(__file__).resolve().parents[2] / "../shared/data")


def write_lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def load(path, rows, **options):
    return load_problems(write_lines(path, rows), **options)


@pytest.mark.parametrize(
    ("name", "row", "gold"),
    [
        ("math500", {"problem": "Q", "solution": "so $\\boxed{\\frac{1}{2}}$", "answer": "0.5"}, "\\frac{1}{2}"),
        ("minerva_math", {"problem": "Q", "solution": "\\[\\boxed{1.6} \\mathrm{~cm}\\]"}, "1.6"),
        ("minerva_math", {"question": "Q", "answer": "1.6"}, "1.6"),
        ("olympiadbench", {"question": "Q", "final_answer": ["$2$", "$3$"], "error": "1e-2"}, ("$2$", "$3$")),
        ("gsm8k", {"question": "Q", "answer": "48/2 = 24\n#### 1,024"}, "1,024"),
        ("amc23", {"problem": "Q", "answer": 27.0}, "27.0"),
        ("aime24", {"problem": "Q", "answer": "073"}, "073"),
    ],
)
def test_gold_is_extracted_as_published(tmp_path, name, row, gold):
    write_lines(tmp_path / f"{name}.jsonl", [row])
    (problem,) = load_problems(name, data_dir=str(tmp_path))
    assert (problem.question, problem.gold, problem.data_source) == ("Q", gold, name)
    assert problem.tolerance == (0.01 if name == "olympiadbench" else None)


def test_an_alias_and_the_published_folder_layout_are_found(tmp_path):
    write_lines(tmp_path / "math_oai" / "test.jsonl", [{"problem": "Q", "solution": "\\boxed{7}"}])
    (problem,) = load_problems("math_oai", data_dir=str(tmp_path))
    assert (problem.benchmark, problem.gold) == ("math500", "7")


@pytest.mark.parametrize(("gold", "ending"), [("\\text{Yes}", " (Yes or No)"), ("true", " (True or False)"), ("5", "")])
def test_a_truth_value_is_asked_for_as_published(tmp_path, gold, ending):
    (problem,) = load(tmp_path / "own.jsonl", [{"question": " Is it? ", "answer": gold}])
    assert problem.question == f" Is it? {ending}".strip()


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({"question": "Q", "answer": 5}, "5"),
        ({"problem": "Q", "target": "so #### 12"}, "12"),
        ({"problem": "Q", "solution": "thus \\boxed{3}"}, "3"),
        ({"question": "Q", "final_answer": ["1", "2"]}, ("1", "2")),
        ({"question": "Q", "answer": None, "gold": "x+1"}, "x+1"),
    ],
)
def test_a_file_of_ones_own_needs_a_question_and_an_answer_column(tmp_path, row, gold):
    (problem,) = load(tmp_path / "own.jsonl", [row])
    assert (problem.gold, problem.benchmark, problem.data_source) == (gold, "own", "math")


def test_verl_columns_bring_their_own_prompt(tmp_path):
    row = {
        "data_source": "arithmetic/easy",
        "prompt": [{"role": "user", "content": "What is 1 + 1? Box it."}],
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"question": "What is 1 + 1?"},
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "test.parquet")
    (problem,) = load_problems(f"sums:{tmp_path / 'test.parquet'}")
    assert problem.messages == ({"role": "user", "content": "What is 1 + 1? Box it."},)
    assert (problem.benchmark, problem.question, problem.gold) == ("sums", "What is 1 + 1?", "2")
    assert problem.data_source == "arithmetic/easy"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "Q", "answer": None}, "row 1: no gold answer"),
        ({"question": "Q", "answer": " "}, "row 1: no gold answer in column 'answer'"),
        ({"question": "Q"}, "row 1: no gold answer .looked for the columns answer, .*it has: question"),
        ({"question": "Q", "solution": "no box"}, "row 1: no .boxed answer in the solution"),
        ({"answer": "5"}, "row 1: no question"),
        ({"question": "", "answer": "5"}, "row 1: no question in column 'question'"),
        ({"prompt": [{"role": "user", "content": "Q"}], "reward_model": {}}, "row 1: no gold answer in reward_model"),
        ({"prompt": ["Q"], "reward_model": {"ground_truth": "1"}}, "row 1: column 'prompt' is no list of messages"),
        ({"question": "Q", "answer": "5", "data_source": "mystery"}, "data_source"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, row, message):
    good = {"question": "Q", "answer": "5", **({"data_source": "mystery"} if "data_source" in row else {})}
    with pytest.raises((DataError, ConfigError), match=message):
        load(tmp_path / "own.jsonl", [good, row])


def test_a_benchmark_without_gold_is_named(tmp_path):
    write_lines(tmp_path / "gsm8k.jsonl", [{"question": "Q", "answer": "42"}])
    with pytest.raises(DataError, match=r"gsm8k.jsonl: row 0: no #### line in the answer"):
        load_problems("gsm8k", data_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("benchmarks", "message"),
    [
        (["math5000"], "benchmarks: got 'math5000', expected .did you mean 'math500'.*aime24.*gsm8k, .*math_oai"),
        (["nowhere.jsonl"], "expected an existing file, and nowhere.jsonl is none"),
        ([], "benchmarks: got 'nothing'"),
        (["math500", "math_oai"], "expected another name than 'math500'"),
    ],
)
def test_an_unknown_benchmark_is_refused_with_the_list(benchmarks, message):
    with pytest.raises(ConfigError, match=message):
        canonical_names(benchmarks)


def test_an_empty_folder_and_an_empty_file_are_named(tmp_path):
    with pytest.raises(DataError, match="data_dir: no aime24.jsonl"):
        load_problems("aime24", data_dir=str(tmp_path))
    with pytest.raises(DataError, match="own.jsonl: no problem in it"):
        load(tmp_path / "own.jsonl", [])


def test_the_fingerprint_is_that_of_questions_and_answers(tmp_path):
    rows = [{"question": "Q", "answer": "5"}, {"question": "R", "answer": "6"}]
    one = load(tmp_path / "one.jsonl", rows)
    assert fingerprint(one) == fingerprint(load(tmp_path / "two.jsonl", [{**row, "note": "x"} for row in rows]))
    assert fingerprint(one) != fingerprint(load(tmp_path / "three.jsonl", [rows[0], {**rows[1], "answer": "7"}]))


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_public_files_hold_the_published_number_of_problems(name):
    if not (DATA / f"{name}.jsonl").is_file():
        pytest.skip(f"no evaluation data in {DATA} (set VERL_EXT_DATA to the folder that holds it)")
    problems = load_problems(name, data_dir=str(DATA))
    assert len(problems) == BENCHMARKS[name].problems
    assert all(problem.question and problem.gold for problem in problems)
