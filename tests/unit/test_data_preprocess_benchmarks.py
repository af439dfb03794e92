"""The scripts of the public benchmarks, on small samples in the columns of the hub and of the published harness."""

import json
import os
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.preprocess import json_lines, parquet, read_rows, run_script
from verl_ext.data.benchmarks import BENCHMARKS
from verl_ext.errors import DataError
from verl_ext.evaluation.benchmarks import fingerprint, load_problems
from verl_ext.reward.grader import grade

DATA = Path(os.environ.get("VERL_EXT_DATA") or Path(__file__).resolve().parents[2] / "../shared/data")
INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."

# script: (benchmark, source rows, (question, gold, worked solution) of each)
SAMPLES = {
    "aime24": (
        "aime24",
        [
            {"id": 60, "problem": "Find $a$.", "solution": "Thus 073.", "answer": "073", "url": "u", "year": "2024"},
            {"id": 61, "problem": "Find $b$.", "solution": "Thus 5.", "answer": "5", "url": "u", "year": "2024"},
        ],
        [("Find $a$.", "073", "Thus 073."), ("Find $b$.", "5", "Thus 5.")],
    ),
    "aime25": (
        "aime25",
        [{"problem": "Find $a$.", "answer": "70", "id": "0"}, {"question": "Find $b$.", "answer": "588"}],
        [("Find $a$.", "70", "70"), ("Find $b$.", "588", "588")],
    ),
    "amc23": (
        "amc23",
        [{"id": 0, "question": "Find $a$.", "answer": "27", "url": "u"}, {"problem": "Find $b$.", "answer": 36.0}],
        [("Find $a$.", "27", "27"), ("Find $b$.", "36.0", "36.0")],
    ),
    "math500": (
        "math500",
        [
            {
                "problem": "Find $a$.",
                "solution": "So $\\boxed{\\frac{1}{2}}$.",
                "answer": "0.5",
                "subject": "Algebra",
                "level": 2,
                "unique_id": "test/algebra/1.json",
            },
            {"problem": "Is it?", "solution": "\\boxed{\\text{Yes}}", "answer": "Yes", "level": 1},
        ],
        [
            ("Find $a$.", "\\frac{1}{2}", "So $\\boxed{\\frac{1}{2}}$."),
            ("Is it? (Yes or No)", "\\text{Yes}", "\\boxed{\\text{Yes}}"),
        ],
    ),
    "minerva": (
        "minerva_math",
        [
            {"problem": "How far?", "solution": "\\[s=\\boxed{1.6} \\mathrm{~cm}\\]", "type": "Astronomy", "idx": 0},
            {"question": "How bright?", "answer": "4.5e33"},
        ],
        [("How far?", "1.6", "\\[s=\\boxed{1.6} \\mathrm{~cm}\\]"), ("How bright?", "4.5e33", "4.5e33")],
    ),
    "olympiadbench": (
        "olympiadbench",
        [
            {"id": 1, "question": "Find $a$.", "solution": ["One way.", "Another."], "final_answer": ["$8$,$4$"]},
            {"id": 2, "question": "Find $b$.", "solution": ["A way."], "final_answer": ["4.2"], "error": "1e-1"},
        ],
        [("Find $a$.", "$8$,$4$", "One way."), ("Find $b$.", "4.2", "A way.")],
    ),
    "gsm8k": (
        "gsm8k",
        [
            {"question": "How many?", "answer": "48/2 = <<48/2=24>>24\n#### 1,024", "idx": 0},
            {"question": "How much?", "answer": "Three.\n#### 3"},
        ],
        [("How many?", "1,024", "48/2 = <<48/2=24>>24\n#### 1,024"), ("How much?", "3", "Three.\n#### 3")],
    ),
}
SCRIPTS = pytest.mark.parametrize("script", SAMPLES)


@pytest.fixture
def run(tmp_path):
    return partial(run_script, local_dir=tmp_path / "out")


def read(tmp_path):
    return read_rows(tmp_path / "out", "test")


@SCRIPTS
def test_rows_have_verls_columns_and_the_evaluations_question_and_gold(run, tmp_path, script):
    name, rows, expected = SAMPLES[script]
    code, out, err = run(script, "--source", json_lines(tmp_path / "source.jsonl", rows))
    assert (code, err) == (0, [])
    for index, (row, (question, gold, solution)) in enumerate(zip(read(tmp_path), expected, strict=True)):
        tolerance = {"error": rows[index].get("error")} if name == "olympiadbench" else {}
        assert row == {
            "data_source": name,
            "prompt": [{"role": "user", "content": question + INSTRUCTION}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": gold},
            "extra_info": {"split": "test", "index": index, "question": question, "answer": solution, **tolerance},
        }
    assert out[0] == f"{tmp_path / 'out' / 'test.parquet'}: 2 rows of 2 read, 0 dropped"
    assert out[1] == f"  note: the file behind the papers' numbers has {BENCHMARKS[name].problems} problems"
    assert out[2].startswith("  characters of question: 50% ") and f"  | {expected[0][0]}" in out


@SCRIPTS
def test_the_evaluation_reads_the_same_problems_from_the_prepared_file(run, tmp_path, script):
    name, rows, _ = SAMPLES[script]
    json_lines(tmp_path / "raw" / f"{name}.jsonl", rows)
    assert run(script, "--source", tmp_path / "raw", local_dir=tmp_path / "prepared" / name)[0] == 0
    raw = load_problems(name, data_dir=str(tmp_path / "raw"))
    assert load_problems(name, data_dir=str(tmp_path / "prepared")) == raw
    assert {problem.data_source for problem in raw} == {name}


@SCRIPTS
def test_the_data_source_is_one_whose_grader_accepts_the_gold(run, tmp_path, script):
    _, rows, _ = SAMPLES[script]
    run(script, "--source", json_lines(tmp_path / "source.jsonl", rows))
    for row in read(tmp_path):
        gold = row["reward_model"]["ground_truth"]
        verdict = grade(f"It is $\\boxed{{{gold}}}$.", gold, data_source=row["data_source"])
        assert (verdict.correct, verdict.status) == (True, "ok")
        assert not grade("It is $\\boxed{-7}$.", gold, data_source=row["data_source"]).correct


@SCRIPTS
def test_a_second_run_writes_the_same_bytes_from_another_kind_of_file(run, tmp_path, script):
    _, rows, _ = SAMPLES[script]
    rows = [{key: row.get(key) for key in rows[0]} for row in rows[:1]]
    run(script, "--source", json_lines(tmp_path / "source.jsonl", rows))
    first = (tmp_path / "out/test.parquet").read_bytes()
    run(script, "--source", parquet(tmp_path / "source.parquet", rows), local_dir=tmp_path / "again")
    run(script, "--source", tmp_path / "source.jsonl")
    assert first == (tmp_path / "out/test.parquet").read_bytes() == (tmp_path / "again/test.parquet").read_bytes()


@SCRIPTS
def test_repeated_rows_and_rows_without_answer_are_dropped_and_counted(run, tmp_path, script):
    name, rows, _ = SAMPLES[script]
    gold_column = "final_answer" if name == "olympiadbench" else "solution" if "box" in str(rows[0]) else "answer"
    without = {**rows[0], gold_column: None} | ({"answer": None} if gold_column == "solution" else {})
    source = json_lines(tmp_path / "source.jsonl", [*rows, rows[1], without, {**without, gold_column: []}])
    code, out, err = run(script, "--source", source)
    assert (code, err) == (0, []) and len(read(tmp_path)) == 2
    dropped = sorted(line for line in out if line.startswith("  dropped"))
    assert "  dropped 1 x repeats an earlier problem (row 2)" in dropped
    reasons = [line for line in dropped if f"no gold answer in column {gold_column!r}" in line]
    assert sum(int(line.split()[1]) for line in reasons) == 2 and f"{source} line 4" in " ".join(reasons)


@SCRIPTS
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not written, no usable row: the source holds none"),
        ('{"text": "?"}\n' * 3, "no usable row: 3 x no question (looked for the columns question, problem, "),
        ('{"problem": "?", "question": "?"}\n', "no usable row: 1 x no gold answer in column "),
    ],
    ids=["empty file", "wrong columns", "no answers"],
)
def test_a_source_without_a_usable_row_is_one_line(run, tmp_path, script, content, message):
    (tmp_path / "source.jsonl").write_text(content)
    code, out, err = run(script, "--source", tmp_path / "source.jsonl")
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith(f"error: {tmp_path / 'out' / 'test.parquet'}: ") and message in err[0]
    assert list((tmp_path / "out").iterdir()) == []


def test_text_that_is_no_utf8_costs_its_row_alone(run, tmp_path):
    rows = b"".join(json.dumps(row).encode() + b"\n" for row in SAMPLES["aime25"][1])
    bad = b'{"problem": "caf\xe9?", "answer": "1"}\n{"problem": "?", "answer": "1", "note": "caf\xe9"}\n'
    (tmp_path / "source.jsonl").write_bytes(rows + bad)
    code, out, _ = run("aime25", "--source", tmp_path / "source.jsonl")
    assert code == 0 and [row["extra_info"]["index"] for row in read(tmp_path)] == [0, 1, 3]
    assert f"  dropped 1 x question is not UTF-8 ({tmp_path / 'source.jsonl'} line 3)" in out


def test_parts_of_an_answer_survive_the_text_column(run, tmp_path):
    json_lines(tmp_path / "raw/olympiadbench.jsonl", [{"question": "Find both.", "final_answer": ["$2$", "$\\pi$"]}])
    run("olympiadbench", "--source", tmp_path / "raw", local_dir=tmp_path / "prepared/olympiadbench")
    (row,) = read_rows(tmp_path / "prepared/olympiadbench", "test")
    gold = row["reward_model"]["ground_truth"]
    assert gold == '["$2$", "$\\\\pi$"]'
    assert grade("\\boxed{\\pi, 2}", gold, data_source="olympiadbench").correct
    assert not grade("\\boxed{2}", gold, data_source="olympiadbench").correct
    (problem,) = load_problems("olympiadbench", data_dir=str(tmp_path / "prepared"))
    assert problem.gold == ("$2$", "$\\pi$")


@pytest.mark.parametrize("name", ["dft", "qwen", "none"])
def test_the_instruction_is_a_choice(run, tmp_path, name):
    rows = SAMPLES["aime25"][1]
    run("aime25", "--source", json_lines(tmp_path / "s.jsonl", rows), "--instruction", name)
    ending = {"dft": " Let's think step by step and output the final answer within \\boxed{}.", "qwen": INSTRUCTION}
    assert read(tmp_path)[0]["prompt"][0]["content"] == "Find $a$." + ending.get(name, "")
    code, _, err = run("aime25", "--source", tmp_path / "s.jsonl", "--instruction", "dtf")
    assert code == 2 and len(err) == 1 and "--instruction" in err[0]


@pytest.mark.parametrize("layout", ["train-00000-of-00001.parquet", "test.parquet", "data/train.parquet"])
def test_aime_2024_is_found_whether_its_split_is_called_train_or_test(run, tmp_path, layout):
    parquet(tmp_path / "clone" / layout, SAMPLES["aime24"][1])
    assert run("aime24", "--source", tmp_path / "clone")[0] == 0 and len(read(tmp_path)) == 2


def test_gsm8k_gives_its_training_split_too(run, tmp_path):
    rows = SAMPLES["gsm8k"][1]
    parquet(tmp_path / "main" / "train-00000-of-00001.parquet", [{k: rows[0][k] for k in ("question", "answer")}])
    parquet(tmp_path / "main" / "test-00000-of-00001.parquet", [{k: rows[1][k] for k in ("question", "answer")}])
    assert run("gsm8k", "--source", tmp_path / "main", "--splits", "train", "test")[0] == 0
    assert [row["extra_info"]["question"] for row in read_rows(tmp_path / "out", "train")] == ["How many?"]
    assert [row["extra_info"]["question"] for row in read(tmp_path)] == ["How much?"]


def test_a_prepared_file_of_another_data_set_is_not_taken_for_a_benchmark(run, tmp_path):
    source = json_lines(tmp_path / "s.jsonl", SAMPLES["math500"][1])
    run("math_dataset", "--source", source, "--splits", "test", local_dir=tmp_path / "data" / "math500")
    with pytest.raises(DataError, match=r"row 0: data_source is 'DigitalLearningGmbH/MATH-lighteval', expected 'math"):
        load_problems("math500", data_dir=str(tmp_path / "data"))


def test_files_of_different_benchmarks_are_read_together(run, tmp_path):
    # As verl reads several val_files; OlympiadBench alone has a tolerance.
    from datasets import concatenate_datasets, load_dataset

    parts = []
    for script in ("aime24", "olympiadbench"):
        name, rows, _ = SAMPLES[script]
        run(script, "--source", json_lines(tmp_path / f"{name}.jsonl", rows), local_dir=tmp_path / name)
        file = str(tmp_path / name / "test.parquet")
        parts.append(load_dataset("parquet", data_files=file, cache_dir=str(tmp_path / "cache"))["train"])
    together = concatenate_datasets(parts)
    assert [info["error"] for info in together["extra_info"]] == [None, None, None, "1e-1"]


@pytest.mark.parametrize("script", SAMPLES)
def test_the_public_files_are_prepared_complete(run, tmp_path, script):
    name = SAMPLES[script][0]
    if not (DATA / f"{name}.jsonl").is_file():
        pytest.skip(f"no evaluation data in {DATA} (set VERL_EXT_DATA to the folder that holds it)")
    code, out, err = run(script, "--source", DATA, local_dir=tmp_path / name)
    assert (code, err) == (0, [])
    assert out[0].endswith(f"{BENCHMARKS[name].problems} rows of {BENCHMARKS[name].problems} read, 0 dropped")
    assert not any(line.startswith("  note") for line in out)
    raw, prepared = (load_problems(name, data_dir=str(folder)) for folder in (DATA, tmp_path))
    assert prepared == raw and fingerprint(prepared) == fingerprint(raw)
    assert pq.read_schema(tmp_path / name / "test.parquet").names == [
        "data_source",
        "prompt",
        "ability",
        "reward_model",
        "extra_info",
    ]
