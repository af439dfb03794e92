"""Filtering training files by how often a run solved their problems."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from verl_ext.data.by_pass_rate import main
from verl_ext.data.pass_rates import PassRate, problem_id, read_journal
from verl_ext.errors import DataError

SOLVED = {"0": 0, "1": 3, "2": 8}
"""Question -> right answers of eight; of the others nobody knows."""


def _row(question: str, index: int) -> dict:
    return {
        "data_source": "math",
        "prompt": [{"role": "user", "content": question}],
        "reward_model": {"style": "rule", "ground_truth": question},
        "extra_info": {"index": index, "level": index % 2},
    }


@pytest.fixture
def rows():
    return [_row(str(question), index) for index, question in enumerate([0, 1, 2, 3, 2])]


def _write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def journal(tmp_path):
    def line(step, question, right):
        problem = problem_id([{"role": "user", "content": question}], question)
        return {"step": step, "uid": "0", "problem": problem, "right": right, "of": 8, "truncated": 1, "used": False}

    lines = [line(1, "1", 8), *(line(2, question, right) for question, right in SOLVED.items())]
    path = tmp_path / "pass_rates.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    return path


def _kept(path) -> list[int]:
    rows = pq.read_table(path).to_pylist() if path.suffix == ".parquet" else map(json.loads, path.open())
    return [row["extra_info"]["index"] for row in rows]


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
@pytest.mark.parametrize(
    ("more", "kept"),
    [
        (["--keep", "pass_rate < 1"], [0, 1, 3]),
        (["--keep", "pass_rate < 1", "--unseen", "drop"], [0, 1]),
        (["--keep", "pass_rate > 0 and pass_rate < 1 and extra_info.level == 1"], [1, 3]),
        (["--keep", "pass_rate <= 3/8", "--answers", "all", "--unseen", "drop"], [0]),  # question 1: 11 of 16
        (["--keep", "extra_info.level == 0"], [0, 2, 4]),
    ],
)
def test_rows_are_kept_as_told(tmp_path, rows, journal, capsys, suffix, more, kept):
    out = tmp_path / f"kept{suffix}"
    source = _write(tmp_path / f"train{suffix}", rows)
    assert main([str(source), "--rates", str(journal), *more, "--out", str(out)]) == 0
    assert _kept(out) == kept
    assert (tmp_path / "kept.png").stat().st_size > 1000
    printed = capsys.readouterr().out
    assert "never" in printed and "always" in printed and "not measured" in printed
    assert f"{len(kept)} of 5 rows" in printed


def test_columns_and_their_types_stay(tmp_path, rows, journal):
    source = _write(tmp_path / "train.parquet", rows)
    main(
        [
            str(source),
            "--rates",
            str(journal),
            "--keep",
            "pass_rate < 1",
            "--out",
            str(tmp_path / "new" / "kept.parquet"),
        ]
    )
    assert pq.read_schema(tmp_path / "new" / "kept.parquet").equals(pq.read_schema(source))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--keep": "pass_rate > 1", "--unseen": "drop"}, "leaves no row"),
        ({"--keep": "difficulty < 3"}, "train.parquet: row 0: no column difficulty"),
        ({"--keep": "data_source < 3"}, "train.parquet: row 0: column data_source: 'math' is no number"),
        ({"--keep": "pass_rate <"}, "--keep: 'pass_rate <': expected a number"),
        ({"--rates": "/nowhere.jsonl"}, "/nowhere.jsonl: cannot be read as a journal"),
        ({"--out": "kept.jsonl"}, "of another kind than"),
        ({"--unseen": "maybe"}, "argument --unseen: invalid choice"),
        ({"--keeep": "x"}, "unrecognized arguments: --keeep"),
        ({"FILE": "/nowhere.parquet"}, "FILE: /nowhere.parquet not found"),
        ({"--out": None}, "arguments are required: --out"),
    ],
)
def test_what_cannot_work_is_one_line(tmp_path, rows, journal, capsys, monkeypatch, change, said):
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "train.parquet", rows)
    options = {"--rates": str(journal), "--keep": "pass_rate < 1", "--out": "kept.parquet", **change}
    file = options.pop("FILE", "train.parquet")
    arguments = [part for name, value in options.items() if value is not None for part in (name, value)]
    with pytest.raises(SystemExit) as ended:
        main([file, *arguments])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and said in error
    assert not list(tmp_path.glob("*kept*"))


def test_the_output_is_never_an_input(tmp_path, rows, journal, capsys):
    source = _write(tmp_path / "train.parquet", rows)
    before = source.read_bytes()
    with pytest.raises(SystemExit):
        main([str(source), "--rates", str(journal), "--keep", "pass_rate < 1", "--out", str(source)])
    assert "is one of the files that are read" in capsys.readouterr().err
    assert source.read_bytes() == before


def test_a_journal_of_other_problems_is_said(tmp_path, rows, journal, capsys):
    others = [_row("other", 0)]
    source = _write(tmp_path / "train.parquet", others)
    with pytest.raises(SystemExit):
        main([str(source), "--rates", str(journal), "--keep", "pass_rate < 1", "--out", str(tmp_path / "kept.parquet")])
    assert "no problem of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2"),
        ("[]", "line 2"),
        ('{"step": 1, "problem": "x", "right": 1, "of": 8}', "lacks 'truncated'"),
        ('{"step": 1, "problem": "x", "right": 9, "of": 8, "truncated": 0}', "9 right of 8"),
        ('{"step": 1, "problem": "x", "right": 0, "of": 0, "truncated": 0}', "0 right of 0"),
        ('{"step": 1, "problem": "x", "right": true, "of": 8, "truncated": 0}', "right is no int"),
    ],
)
def test_a_line_that_is_no_entry_is_named(tmp_path, line, said):
    path = tmp_path / "pass_rates.jsonl"
    path.write_text('{"step": 1, "problem": "x", "right": 1, "of": 8, "truncated": 0}\n' + line + "\n")
    with pytest.raises(DataError, match=f"line 2: .*{said}" if said != "line 2" else said):
        read_journal(path)


def test_a_problem_is_known_by_its_prompt_and_answer_alone():
    messages = [{"role": "user", "content": "1 + 1?"}]
    parts = [{"role": "user", "content": [{"type": "text", "text": "1 + 1?"}], "name": None}]
    assert problem_id(messages, "2") == problem_id(parts, 2)
    others = [problem_id(messages, "3"), problem_id([{"role": "system", "content": "1 + 1?"}], "2")]
    assert len({problem_id(messages, "2"), *others}) == 3


def test_rates_add_up():
    assert PassRate(1, 8, 2) + PassRate(3, 4) == PassRate(4, 12, 2)
    assert PassRate(3, 4).rate == 0.75
