"""Files that cannot be read end in one line with file and row; those that can take little memory, whatever their size."""

from __future__ import annotations

import gzip
import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import arithmetic_rows, write_parquet
from tests.support.tiny_model import byte_tokenizer
from verl_ext.data import reading
from verl_ext.data.reading import iterate_rows, require_files
from verl_ext.data.rollout_dataset import RolloutDataset
from verl_ext.data.rollout_rows import RolloutDataConfig
from verl_ext.data.sft_dataset import SFTDataConfig, SFTDataset
from verl_ext.errors import DataError

CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}


def written(tmp_path, name: str, content: bytes | str):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def tokenised(path: str, **options) -> SFTDataset:
    return SFTDataset([path], byte_tokenizer(), SFTDataConfig(**options))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"messages": "\\ud83d"}', r"text holds half a character \(\\ud83d without its other half\)"),
        ('{"messages": [{"content": "a \\uDE00 b"}]}', r"text holds half a character \(\\ude00 without"),
        ('{"\\ud83d": 1}', "text holds half a character"),
        ("[" * 200_000, "JSON that cannot be read"),
        ('{"a": ' + "9" * 5000 + "}", "JSON that cannot be read"),
        ('{"a": ', "not JSON"),
        ("[1]", "expected an object, found list"),
        ("null", "expected an object, found NoneType"),
    ],
    ids=["first half", "second half", "in a key", "too deep", "too many digits", "cut off", "list", "null"],
)
def test_a_line_that_is_no_row_is_named(tmp_path, line, message):
    path = written(tmp_path, "rows.jsonl", json.dumps(CHAT) + "\n" + line)
    with pytest.raises(DataError, match=f"^{path}: row 1: {message}"):
        list(iterate_rows(path))


def test_a_character_outside_the_first_plane_may_be_escaped(tmp_path):
    """JSON writes it as two halves."""
    path = written(tmp_path, "rows.jsonl", json.dumps({"text": "\N{GRINNING FACE}"}))
    assert next(iterate_rows(path))["text"] == "\N{GRINNING FACE}"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.jsonl", gzip.compress(b'{"a": 1}'), "is compressed with gzip; unpack it"),
        ("rows.parquet", gzip.compress(b"PAR1"), "not a readable parquet file"),
        ("rows.parquet", "question,answer\n1,2\n", "not a readable parquet file"),
        ("rows.parquet", "", "not a readable parquet file"),
    ],
    ids=["gzip", "gzip as parquet", "csv as parquet", "empty parquet"],
)
def test_a_file_of_another_kind_is_named(tmp_path, name, content, message):
    path = written(tmp_path, name, content)
    with pytest.raises(DataError, match=f"^{path}: {message}"):
        list(iterate_rows(path))
    with pytest.raises(DataError, match=f"^{path}: {message}"):
        tokenised(path)


def test_folders_and_other_suffixes_are_named(tmp_path):
    (tmp_path / "rows.parquet").mkdir()
    with pytest.raises(DataError, match="^data.train_files: .*rows.parquet is a folder; expected a parquet"):
        require_files("data.train_files", [str(tmp_path / "rows.parquet")])
    for name in ("rows.jsonl.gz", "rows.csv"):
        with pytest.raises(DataError, match=f"{name} is neither .parquet nor .jsonl"):
            require_files("data.train_files", [written(tmp_path, name, "")])


def test_two_columns_of_one_name_are_named(tmp_path):
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["messages", "messages"]), path)
    with pytest.raises(DataError, match="rows.parquet: two columns are called 'messages'"):
        tokenised(str(path))


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "column 'messages' is not a list of {role, content}"),
        (None, "column 'messages' is not a list of {role, content}"),
        ([None], "column 'messages' is not a list of {role, content}"),
        ([{"role": None, "content": "hi"}], "column 'messages' is not a list of {role, content}"),
        ([{"role": "user", "content": None}], "message 0 holds null where text was expected"),
        ([{"role": "assistant", "content": "hello"}], "the assistant speaks first"),
        ([{"role": "user", "content": "hi"}], "no assistant message"),
    ],
    ids=str,
)
def test_a_chat_that_is_none_names_its_row(tmp_path, suffix, messages, message):
    rows = [CHAT, {"messages": messages}]
    path = str(tmp_path / f"rows.{suffix}")
    if suffix == "jsonl":
        written(tmp_path, "rows.jsonl", "\n".join(map(json.dumps, rows)))
    else:
        write_parquet(tmp_path / "rows.parquet", rows)
    with pytest.raises(DataError, match=f"^{path}: row 1: {message}"):
        tokenised(path)


def test_a_prompt_that_holds_nothing_names_its_row(tmp_path):
    rows = [{"prompt": "1+1?", "response": "2"}, {"prompt": [None], "response": "2"}]
    path = written(tmp_path, "rows.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="row 1: column 'prompt' holds list where text was expected"):
        tokenised(path, prompt_key="prompt", response_key="response")


def test_zero_rows_are_named(tmp_path):
    table = pq.read_table(write_parquet(tmp_path / "one.parquet", [CHAT]))
    pq.write_table(table.slice(0, 0), tmp_path / "none.parquet")
    with pytest.raises(DataError, match="^data.train_files: no rows in "):
        tokenised(str(tmp_path / "none.parquet"))


def test_bytes_that_are_not_utf8_name_their_row_wherever_it_is(tmp_path):
    texts = [b"fine"] * 2500
    texts[2100] = b"caf\xe9"
    path = tmp_path / "latin.parquet"
    pq.write_table(pa.table({"text": pa.array(texts, pa.binary()).view(pa.string())}), path, row_group_size=700)
    rows = iterate_rows(str(path))
    assert [next(rows)["text"] for _ in range(2100)] == ["fine"] * 2100
    with pytest.raises(DataError, match="latin.parquet: row 2100: text is not UTF-8"):
        next(rows)


@pytest.mark.parametrize("row_group_size", [1, 7, 5000])
def test_parquet_rows_come_in_their_order(tmp_path, row_group_size):
    rows = [{"number": i, "values": list(range(i % 5)), "text": "x" * (i % 300)} for i in range(3000)]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=row_group_size)
    assert list(iterate_rows(str(path))) == rows


def peak_bytes(act) -> int:
    """Most bytes of Python objects at a time while it acts."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def token_rows(tmp_path, rows: int, tokens: int) -> str:
    """Graded generations with token ids and log-probabilities, as large as those of long answers."""
    generator = np.random.default_rng(0)
    ids = pa.array(generator.integers(0, 250, 2 * rows * tokens, dtype=np.int32))
    log_probs = pa.array(-generator.random(2 * rows * tokens, dtype=np.float32))
    per_answer = pa.array(np.arange(0, 2 * rows * tokens + 1, tokens, dtype=np.int32))
    per_row = pa.array(np.arange(0, 2 * rows + 1, 2, dtype=np.int32))

    def nested(values):
        return pa.ListArray.from_arrays(per_row, pa.ListArray.from_arrays(per_answer, values))

    columns = {"prompt_ids": pa.array([[1, 2]] * rows), "correct": pa.array([[1, 0]] * rows)}
    columns |= {"response_ids": nested(ids), "old_log_probs": nested(log_probs)}
    pq.write_table(pa.table(columns), tmp_path / "rollouts.parquet")
    return str(tmp_path / "rollouts.parquet")


def test_rows_of_many_tokens_are_not_all_python_objects_at_once(tmp_path):
    """A token and its log-probability take some 100 bytes as Python objects; a batch of 1,024 rows took gigabytes."""
    rows, tokens = 200, 1000
    path = token_rows(tmp_path, rows, tokens)
    as_objects = rows * 2 * tokens * (8 + 8 + 24)  # two lists, and floats; Python has small integers already
    assert peak_bytes(lambda: [None for _ in iterate_rows(path)]) < as_objects / 4
    kept = rows * 2 * tokens * (4 + 4)
    peak = peak_bytes(lambda: RolloutDataset([path], byte_tokenizer(), RolloutDataConfig(max_length=2048)))
    assert peak < as_objects / 4 + 2 * kept


def test_texts_are_tokenised_a_few_megabytes_at_a_time(tmp_path):
    rows = [{"prompt": "p", "response": "r" * 200_000} for _ in range(64)]
    path = str(write_parquet(tmp_path / "rows.parquet", rows))
    config = SFTDataConfig(prompt_key="prompt", response_key="response", max_length=128)
    peak = peak_bytes(lambda: SFTDataset([path], byte_tokenizer(), config))
    assert peak < 64 * 200_000 * 8  # the lists of token ids alone, if all rows were tokenised at once


class TooLargeAtOnce:
    """A parquet file from which arrow reads no more than so many rows at a time, as with 2 GiB of nested text."""

    def __init__(self, file: pq.ParquetFile, most: int) -> None:
        self.file, self.most = file, most
        self.metadata, self.schema_arrow, self.num_row_groups = file.metadata, file.schema_arrow, file.num_row_groups

    def iter_batches(self, rows: int, row_groups: list[int]):
        for number, batch in enumerate(self.file.iter_batches(rows, row_groups=row_groups)):
            if number == 1 and batch.num_rows > self.most:
                raise pa.ArrowNotImplementedError("Nested data conversions not implemented for chunked array outputs")
            yield batch


def test_what_arrow_cannot_hold_at_once_is_read_in_smaller_batches(tmp_path, monkeypatch):
    """Footers count a repeated text once, so that the size of a batch cannot be known before."""
    rows = arithmetic_rows(3000)
    path = str(write_parquet(tmp_path / "rows.parquet", rows))
    monkeypatch.setattr(reading, "_open_parquet", lambda path: TooLargeAtOnce(pq.ParquetFile(path), most=70))
    assert list(iterate_rows(path)) == rows
    monkeypatch.setattr(reading, "_open_parquet", lambda path: TooLargeAtOnce(pq.ParquetFile(path), most=0))
    with pytest.raises(DataError, match=r"rows.parquet: row \d+: too large to be read \(Nested data conversions"):
        list(iterate_rows(path))
