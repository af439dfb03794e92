"""Graded answers of an evaluation become training data: which answers, under which prompt, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import write_parquet
from tests.support.tiny_model import byte_tokenizer
from verl_ext.data.prepare.rows import make_row
from verl_ext.data.rollout_dataset import RolloutDataset
from verl_ext.data.rollout_rows import RolloutDataConfig
from verl_ext.data.sft_dataset import SFTDataConfig, SFTDataset
from verl_ext.errors import DataError
from verl_ext.evaluation.benchmarks import load_problems
from verl_ext.evaluation.graded_samples import collect, main, select


def problem(index: int, ground_truth: str | None = "4") -> dict:
    return make_row(
        data_source="AI-MO/NuminaMath-CoT",
        split="train",
        index=index,
        prompt=f"problem {index}? Box it.",
        question=f"problem {index}?",
        answer="unused",
        ground_truth=ground_truth,
    )


def graded(problem: int, sample: int, correct: bool, *, reason: str = "stop", question: str | None = None) -> dict:
    return {
        "problem": problem,
        "sample": sample,
        "question": question or f"problem {problem}?",
        "response": f"answer {problem}.{sample}",
        "correct": correct,
        "finish_reason": reason,
    }


@pytest.fixture
def problems(tmp_path) -> Path:
    return write_parquet(tmp_path / "problems.parquet", [problem(index) for index in range(4)])


@pytest.fixture
def verdicts(tmp_path):
    def write(*records: dict) -> Path:
        path = tmp_path / "graded.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
        return path

    return write


# As an evaluation finishes them: in any order, problem 3 not at all.
VERDICTS = (
    graded(2, 1, True),
    graded(0, 1, False),
    graded(1, 0, False),
    graded(0, 0, True),
    graded(2, 0, True, reason="length"),
    graded(1, 1, False, reason="length"),
)


def test_offline_nft_reads_what_collect_writes(problems, verdicts, tmp_path):
    collect(str(problems), str(verdicts(*VERDICTS)), str(tmp_path / "out"))
    rows = pq.read_table(tmp_path / "out" / "rollouts.parquet").to_pylist()
    assert [row["responses"] for row in rows] == [
        ["answer 0.0", "answer 0.1"],
        ["answer 1.0", "answer 1.1"],
        ["answer 2.0", "answer 2.1"],
    ]
    assert [row["correct"] for row in rows] == [[True, False], [False, False], [True, True]]
    assert [row["finish_reasons"] for row in rows] == [["stop", "stop"], ["stop", "length"], ["length", "stop"]]
    assert rows[1]["prompt"] == [{"role": "user", "content": "problem 1? Box it."}]

    tokenizer = byte_tokenizer()
    data = RolloutDataset([str(tmp_path / "out" / "rollouts.parquet")], tokenizer, RolloutDataConfig())
    assert (len(data), data.counts["all right"], data.counts["all wrong"]) == (1, 1, 1)
    text = tokenizer.decode(data.row(0)["input_ids"])
    assert "problem 0? Box it.<|im_end|>" in text and text.endswith("answer 0.0<|im_end|>")


def test_dft_reads_the_right_answers_that_ended(problems, verdicts, tmp_path):
    said = collect(str(problems), str(verdicts(*VERDICTS)), str(tmp_path / "out"))
    config = SFTDataConfig(prompt_key="prompt", response_key="extra_info", response_dict_keys=["answer"])
    tokenizer = byte_tokenizer()
    data = SFTDataset([str(tmp_path / "out" / "right.parquet")], tokenizer, config)
    texts = [tokenizer.decode(data[row]["input_ids"]) for row in range(len(data))]
    assert [text.rpartition("assistant\n")[2] for text in texts] == ["answer 0.0<|im_end|>", "answer 2.1<|im_end|>"]
    assert "3 of 4 problems with 6 answers, of which 3 are right; 1 problems have right and wrong ones" in said
    assert "2 right answers; 1 more were cut off" in said


def test_the_same_verdicts_in_another_order_give_the_same_bytes(problems, verdicts, tmp_path):
    collect(str(problems), str(verdicts(*VERDICTS)), str(tmp_path / "a"))
    collect(str(problems), str(verdicts(*reversed(VERDICTS))), str(tmp_path / "b"))
    for name in ("rollouts.parquet", "right.parquet"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (graded(0, 0, True, question="problem 3?"), "row 1: answers problem 0, which is another one"),
        (graded(4, 0, True), "row 1: answers problem 4, which is another one"),
        (graded(0, 0, None), "row 1: no verdict"),
        (graded(0, 0, True, reason="abort"), "row 1: no response with a finish_reason"),
    ],
)
def test_verdicts_that_do_not_fit_are_refused_with_file_and_row(problems, verdicts, tmp_path, record, expected):
    path = verdicts(graded(1, 0, True), record)
    with pytest.raises(DataError) as error:
        collect(str(problems), str(path), str(tmp_path / "out"))
    assert str(error.value).startswith(f"{path}: {expected}")
    assert not (tmp_path / "out").exists()


def test_no_right_answer_is_an_error(problems, verdicts, tmp_path):
    with pytest.raises(DataError, match="none of its 2 answers is right and complete"):
        collect(str(problems), str(verdicts(VERDICTS[1], VERDICTS[4])), str(tmp_path / "out"))


def test_select_leaves_problems_that_an_evaluation_can_ask(tmp_path):
    source = write_parquet(tmp_path / "train.parquet", [problem(0), problem(1, None), problem(2)])
    said = select(str(source), str(tmp_path / "selected.parquet"))
    assert "2 of 3 problems" in said
    asked = load_problems(f"numina_cot:{tmp_path / 'selected.parquet'}")
    assert [(p.index, p.question, p.gold) for p in asked] == [(0, "problem 0?", "4"), (1, "problem 2?", "4")]


def test_select_refuses_a_file_without_verls_columns(tmp_path, capsys):
    write_parquet(tmp_path / "raw.parquet", [{"problem": "1 + 1", "solution": "2"}])
    with pytest.raises(SystemExit) as ended:
        main(["select", str(tmp_path / "raw.parquet"), str(tmp_path / "out.parquet")])
    assert ended.value.code == 2
    assert "raw.parquet: row 0: column 'prompt': no such column" in capsys.readouterr().err
