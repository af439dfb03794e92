"""numina_cot.py and math_dataset.py, run for real on small local sources."""

import gzip
import json
import os
import subprocess
import sys
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.preprocess import ROOT, json_lines, parquet, read_rows, run_script
from verl_ext.data.prepare.hub import read_hub
from verl_ext.data.prepare.local_files import Columns
from verl_ext.errors import DataError

INSTRUCTION = " Let's think step by step and output the final answer within \\boxed{}."
GOOD = [
    {"source": "olympiads", "problem": f"What is {n} + {n}?", "solution": f"Doubling: $\\boxed{{{2 * n}}}$."}
    for n in range(6)
]


@pytest.fixture
def run(tmp_path):
    """Run a script; returns (exit code, its lines on stdout, its lines on stderr)."""
    return partial(run_script, local_dir=tmp_path / "out")


def read(tmp_path, split="train"):
    return read_rows(tmp_path / "out", split)


# What the rows hold


def test_numina_row_is_the_published_one(run, tmp_path):
    source = json_lines(tmp_path / "source.jsonl", GOOD[:1])
    assert run("numina_cot", "--source", source)[0] == 0
    assert read(tmp_path) == [
        {
            "data_source": "AI-MO/NuminaMath-CoT",
            "prompt": [{"role": "user", "content": "What is 0 + 0?" + INSTRUCTION}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": "0"},
            "extra_info": {
                "split": "train",
                "index": 0,
                "question": "What is 0 + 0?",
                "answer": "Doubling: $\\boxed{0}$.",
            },
        }
    ]


def test_numina_keeps_a_proof_with_a_null_ground_truth(run, tmp_path):
    source = json_lines(tmp_path / "s.jsonl", [{"problem": "Prove it.", "solution": "Trivial."}])
    code, out, _ = run("numina_cot", "--source", source)
    assert code == 0
    assert read(tmp_path)[0]["reward_model"] == {"style": "rule", "ground_truth": None}
    assert "  kept without a boxed answer (ground_truth is null): 1" in out
    # The type is that of a string even where all are null, so that files can be read together.
    schema = pq.read_schema(tmp_path / "out" / "train.parquet")
    assert schema.field("reward_model").type.field("ground_truth").type == pa.string()


@pytest.mark.parametrize(
    ("options", "train", "test"),
    [
        (["--train_end", 4], [0, 1, 2, 3], None),
        (["--train_start", 2, "--train_end", 4, "--test_size", 1], [2, 3], [4]),
        ([], [0, 1, 2, 3, 4, 5], None),
    ],
)
def test_numina_takes_the_rows_asked_for_in_order(run, tmp_path, options, train, test):
    source = parquet(tmp_path / "s.parquet", GOOD)
    assert run("numina_cot", "--source", source, *options)[0] == 0
    assert [row["extra_info"]["index"] for row in read(tmp_path)] == train
    assert [row["extra_info"]["question"] for row in read(tmp_path)] == [GOOD[index]["problem"] for index in train]
    assert (tmp_path / "out" / "test.parquet").exists() == (test is not None)
    if test:
        assert [row["extra_info"]["index"] for row in read(tmp_path, "test")] == test
        assert {row["extra_info"]["split"] for row in read(tmp_path, "test")} == {"test"}


@pytest.mark.parametrize(("options", "suffix"), [([], ""), (["--instruction_in_question"], INSTRUCTION)])
def test_math_question_is_bare_unless_the_published_form_is_asked_for(run, tmp_path, options, suffix):
    source = json_lines(tmp_path / "s.jsonl", GOOD[1:2])
    assert run("math_dataset", "--source", source, "--splits", "test", *options)[0] == 0
    (row,) = read(tmp_path, "test")
    assert row["extra_info"]["question"] == "What is 1 + 1?" + suffix
    assert row["prompt"][0]["content"] == "What is 1 + 1?" + INSTRUCTION
    assert row["data_source"] == "DigitalLearningGmbH/MATH-lighteval"


def test_math_drops_what_cannot_be_graded(run, tmp_path):
    source = json_lines(tmp_path / "s.jsonl", [*GOOD[:2], {"problem": "?", "solution": "no box"}])
    code, out, _ = run("math_dataset", "--source", source, "--splits", "test")
    assert code == 0 and len(read(tmp_path, "test")) == 2
    assert f"  dropped 1 x solution has no boxed answer ({source} line 3)" in out


def test_messages_hold_the_texts_of_extra_info(run, tmp_path):
    source = json_lines(tmp_path / "s.jsonl", GOOD)
    assert run("numina_cot", "--source", source, "--messages")[0] == 0
    for row in read(tmp_path):
        user, assistant = row["messages"]
        assert user == {"role": "user", "content": row["extra_info"]["question"]}
        assert assistant == {"role": "assistant", "content": row["extra_info"]["answer"]}


# Where the rows come from


def gzipped(path, rows):
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def array(path, rows):
    path.write_text(json.dumps(rows, indent=1))
    return path


def folder(path, rows):
    parquet(path / "data" / "train-00000-of-00002.parquet", rows[:3])
    parquet(path / "data" / "train-00001-of-00002.parquet", rows[3:])
    parquet(path / "data" / "test-00000-of-00001.parquet", [{"problem": "other split", "solution": "-"}])
    json_lines(path / ".cache" / "train.jsonl", [{"problem": "hidden", "solution": "-"}])
    return path


def loose_folder(path, rows):
    json_lines(path / "b.jsonl", rows[2:])
    json_lines(path / "a.jsonl", rows[:2])
    return path


def one_object_a_file(path, rows):
    for number, row in enumerate(rows):
        json_lines(path / "train" / "algebra" / f"{number}.json", [row])
    return path


def marked(path, rows):
    path.write_bytes(b"\xef\xbb\xbf" + json_lines(path, rows).read_bytes() + b"\n")
    return path


def views(path, rows):
    texts = [("problem", pa.string_view()), ("solution", pa.dictionary(pa.int32(), pa.string()))]
    return parquet(path, [{key: row[key] for key in ("problem", "solution")} for row in rows], pa.schema(texts))


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (json_lines, "s.jsonl"),
        (json_lines, "lines.json"),
        (gzipped, "s.jsonl.gz"),
        (gzipped, "s.json.gz"),
        (array, "s.json"),
        (marked, "s.jsonl"),
        (parquet, "s.parquet"),
        (views, "s.parquet"),
        (folder, "clone"),
        (loose_folder, "loose"),
        (one_object_a_file, "MATH"),
    ],
)
def test_every_kind_of_local_source_gives_the_same_bytes(run, tmp_path, make, name):
    code, _, err = run("numina_cot", "--source", make(tmp_path / name, GOOD))
    assert (code, err) == (0, [])
    plain = json_lines(tmp_path / "plain.jsonl", GOOD)
    run("numina_cot", "--source", plain, local_dir=tmp_path / "again")
    assert (tmp_path / "out/train.parquet").read_bytes() == (tmp_path / "again/train.parquet").read_bytes()


def test_both_splits_of_a_folder_go_to_their_own_files(run, tmp_path):
    for split, rows in (("train", GOOD[:4]), ("test", GOOD[4:])):
        json_lines(tmp_path / "MATH" / split / "algebra" / "all.jsonl", rows)
    assert run("math_dataset", "--source", tmp_path / "MATH")[0] == 0
    assert len(read(tmp_path, "train")) == 4 and len(read(tmp_path, "test")) == 2


def test_hub_loader_reads_a_slice_of_a_split(tmp_path, monkeypatch):
    # `load_dataset` itself, on a folder laid out as a repository of the hub.
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    parquet(tmp_path / "repository" / "data" / "train-00000-of-00001.parquet", GOOD)
    found = list(read_hub(str(tmp_path / "repository"), "train", Columns(text=("problem",)), 2, 4))
    assert [values for _, values in found] == [{"problem": row["problem"]} for row in GOOD[2:4]]
    assert found[0][0].endswith("repository train row 2")
    with pytest.raises(DataError, match="no column 'answer' .it has: source, problem, solution"):
        list(read_hub(str(tmp_path / "repository"), "train", Columns(text=("answer",)), 0, None))
    with pytest.raises(DataError, match=r"\(validation\): not loaded: .*validation.*--source"):
        list(read_hub(str(tmp_path / "repository"), "validation", Columns(text=("problem",)), 0, None))


def test_hub_loader_reads_one_of_several_subsets(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    repository = tmp_path / "repository"
    configs = []
    for name, folder, rows in (("all", "all", GOOD), ("default", "data", GOOD[:2])):
        parquet(repository / folder / "train-00000-of-00001.parquet", rows)
        configs.append(
            f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {folder}/train-*\n",
        )
    (repository / "README.md").write_text("---\nconfigs:\n" + "".join(configs) + "---\n")
    columns = Columns(text=("problem",), optional=("messages",))
    for name, count in (("all", 6), ("default", 2)):
        assert len(list(read_hub(str(repository), "train", columns, 0, None, name=name))) == count


def test_an_unreachable_hub_is_one_line_from_any_folder(tmp_path):
    command = [sys.executable, str(ROOT / "data_preprocess" / "numina_cot.py"), "--train_end", "100000"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run(
        command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: AI-MO/NuminaMath-CoT (train): not loaded: ")
    assert "--source" in done.stderr and done.stderr.count("\n") == 1
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


# What is wrong with the rows


def test_bad_rows_are_dropped_and_named_by_reason(run, tmp_path):
    source = tmp_path / "s.jsonl"
    bad = [
        b'{"problem": null, "solution": "x"}',
        b'{"problem": 7, "solution": "x"}',
        b'{"problem": "  ", "solution": "x"}',
        b'{"problem": "caf\xe9", "solution": "x"}',
        b'{"problem": "\\ud800", "solution": "x"}',
        b'{"problem": "p", "solution": ["x"]}',
        b'{"problem": "p"}',
    ]
    source.write_bytes(b"".join(line + b"\n" for line in [json.dumps(GOOD[0]).encode(), *bad]))
    code, out, err = run("numina_cot", "--source", source)
    assert (code, err) == (0, [])
    assert out[0] == f"{tmp_path / 'out' / 'train.parquet'}: 1 rows of 8 read, 7 dropped"
    assert sorted(line for line in out if "dropped" in line)[:-1] == sorted(
        [
            f"  dropped 2 x problem is not UTF-8 ({source} line 5, {source} line 6)",
            f"  dropped 1 x problem is null ({source} line 2)",
            f"  dropped 1 x problem is not a string but int ({source} line 3)",
            f"  dropped 1 x problem is empty ({source} line 4)",
            f"  dropped 1 x solution is not a string but list ({source} line 7)",
            f"  dropped 1 x no column 'solution', only: problem ({source} line 8)",
        ]
    )
    assert [row["extra_info"]["index"] for row in read(tmp_path)] == [0]


def test_bad_rows_of_parquet_do_not_take_their_neighbours_along(run, tmp_path):
    texts = pa.schema([("problem", pa.string()), ("solution", pa.string())])
    mangled = pa.array([b"one", b"caf\xe9", None, b"two"], pa.binary()).view(pa.string())
    table = pa.table([mangled, pa.array(["\\boxed{1}"] * 4)], schema=texts)
    pq.write_table(table, tmp_path / "s.parquet")
    code, out, _ = run("numina_cot", "--source", tmp_path / "s.parquet")
    assert code == 0
    assert [(row["extra_info"]["index"], row["extra_info"]["question"]) for row in read(tmp_path)] == [
        (0, "one"),
        (3, "two"),
    ]
    assert f"  dropped 1 x problem is not UTF-8 ({tmp_path / 's.parquet'} row 1)" in out
    assert f"  dropped 1 x problem is null ({tmp_path / 's.parquet'} row 2)" in out


def test_only_the_first_places_of_a_frequent_fault_are_named(run, tmp_path):
    source = json_lines(tmp_path / "s.jsonl", [GOOD[0]] + [{"problem": None, "solution": "x"}] * 50)
    out = run("numina_cot", "--source", source)[1]
    assert f"  dropped 50 x problem is null ({source} line 2, {source} line 3, {source} line 4, ...)" in out


# What is wrong with the source


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


LINE = json.dumps(GOOD[0]).encode() + b"\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("s.parquet", b"no parquet", "s.parquet: not readable as parquet from row 0 on: "),
        ("s.parquet", b"", "s.parquet: not readable as parquet from row 0 on: "),
        ("s.jsonl", b"", "no usable row: the source holds none"),
        ("s.jsonl", LINE + b'{"problem": "cut o', "s.jsonl line 2: not JSON: Unterminated string"),
        ("s.jsonl", LINE + b"[1]\n", "s.jsonl line 2: expected an object, found list"),
        ("s.json", b'[{"problem": "cut o', "s.json: not a JSON array: Unterminated string"),
        ("s.json", b"[1]", "s.json row 0: expected an object, found int"),
        ("s.json", b"7", "s.json: expected objects, found int"),
        ("s.jsonl.gz", b"no gzip", "s.jsonl.gz line 1: not readable: Not a gzipped file"),
        ("s.jsonl.gz", gzip.compress(LINE * 50, mtime=0)[:-20], "s.jsonl.gz line "),
        ("s.csv", b"problem,solution\n", "s.csv: unknown kind of file (known: .parquet, .jsonl"),
        ("s.jsonl", b'{"text": "x"}\n' * 3, "no usable row: 3 x no column 'problem', only: text ("),
    ],
)
def test_a_source_that_cannot_be_read_is_one_line_and_loses_nothing(run, tmp_path, name, content, message):
    run("numina_cot", "--source", json_lines(tmp_path / "good.jsonl", GOOD))
    before = (tmp_path / "out/train.parquet").read_bytes()
    code, out, err = run("numina_cot", "--source", write(tmp_path / name, content))
    assert (code, out, len(err)) == (2, [], 1)
    assert err[0].startswith("error: ") and message in err[0] and str(tmp_path) in err[0]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train.parquet"]
    assert (tmp_path / "out/train.parquet").read_bytes() == before


def test_a_parquet_damaged_in_the_middle_names_the_row(run, tmp_path):
    path = tmp_path / "s.parquet"
    rows = [{"problem": f"problem {n} " + os.urandom(20).hex(), "solution": "\\boxed{1}"} for n in range(4000)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2000, compression="zstd")
    second = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    middle = (second.dictionary_page_offset or second.data_page_offset) + 40
    content[middle : middle + 2000] = b"\xff" * 2000
    path.write_bytes(content)
    code, _, err = run("numina_cot", "--source", path)
    assert code == 2 and len(err) == 1
    assert f"{path}: not readable as parquet from row 2000 on: " in err[0]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ([("question", pa.string())], "no column 'problem' (it has: question)"),
        ([("problem", pa.string()), ("solution", pa.int64())], "column 'solution' holds int64, expected text"),
    ],
)
def test_parquet_with_other_columns_is_refused_by_name(run, tmp_path, schema, message):
    source = parquet(tmp_path / "s.parquet", [{name: None for name, _ in schema}], pa.schema(schema))
    assert run("numina_cot", "--source", source) == (2, [], [f"error: {source}: {message}"])


def test_a_folder_without_the_split_says_what_it_has(run, tmp_path):
    assert run("numina_cot", "--source", tmp_path / "nowhere")[2] == [
        f"error: {tmp_path / 'nowhere'}: no such file or folder"
    ]
    (tmp_path / "empty").mkdir()
    assert "no data file in this folder" in run("numina_cot", "--source", tmp_path / "empty")[2][0]
    json_lines(tmp_path / "other" / "validation.jsonl", GOOD)
    err = run("numina_cot", "--source", tmp_path / "other")[2]
    assert err == [f"error: {tmp_path / 'other'}: no file of split 'train' in this folder (it has: validation)"]


def test_one_file_is_not_taken_for_two_splits(run, tmp_path):
    source = json_lines(tmp_path / "s.jsonl", GOOD)
    code, _, err = run("math_dataset", "--source", source)
    assert code == 2 and len(err) == 1 and "--splits" in err[0]
    code, _, err = run("math_dataset", "--source", loose_folder(tmp_path / "loose", GOOD))
    assert code == 2 and err[0].endswith("no file of split 'train' in this folder (no file is named after a split)")


def test_a_failing_second_split_leaves_the_first_as_it_was(run, tmp_path):
    json_lines(tmp_path / "a" / "train.jsonl", GOOD[:2])
    json_lines(tmp_path / "a" / "test.jsonl", GOOD[2:4])
    assert run("math_dataset", "--source", tmp_path / "a")[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    json_lines(tmp_path / "a" / "train.jsonl", GOOD[4:])
    write(tmp_path / "a" / "test.jsonl", b"{")
    assert run("math_dataset", "--source", tmp_path / "a")[0] == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


# The command line


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--train_end", "x"], "--train_end"),
        (["--train_start", "5", "--train_end", "5"], "--train_start 5: must be below --train_end 5"),
        (["--tokenizer", "/nowhere/at/all"], "--tokenizer /nowhere/at/all: no tokenizer there"),
    ],
)
def test_a_wrong_option_is_one_line(run, tmp_path, options, named, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    source = json_lines(tmp_path / "s.jsonl", GOOD)
    code, out, err = run("numina_cot", "--source", source, *options)
    assert (code, out, len(err)) == (2, [], 1) and named in err[0]


def test_a_folder_that_cannot_be_written_is_one_line(run, tmp_path):
    source = json_lines(tmp_path / "s.jsonl", GOOD)
    code, _, err = run("numina_cot", "--source", source, local_dir=source / "inside")
    assert code == 2 and len(err) == 1 and err[0].startswith(f"error: {source / 'inside'}: cannot be written: ")


def test_report_counts_characters_or_tokens(run, tmp_path):
    source = json_lines(tmp_path / "s.jsonl", [{"problem": "a " * n, "solution": "\\boxed{1}"} for n in range(1, 101)])
    out = run("numina_cot", "--source", source)[1]
    assert "  characters of question: 50% 100, 90% 180, 99% 198, max 200" in out
    assert "  characters of both: 50% 109, 90% 189, 99% 207, max 209" in out
    out = run("numina_cot", "--source", source, "--tokenizer", word_tokenizer(tmp_path / "tokenizer"))[1]
    assert "  tokens of question: 50% 50, 90% 90, 99% 99, max 100" in out
    assert out[-3:] == ["  training text:", "  | <user>a ", "  | <assistant>\\boxed{1}"]


def word_tokenizer(path):
    """A real tokenizer that counts words, with a chat template, saved as transformers reads it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>")
    tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    tokenizer.save_pretrained(path)
    return path
