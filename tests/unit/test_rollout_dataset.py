"""From graded generations to groups of tokenised rows: what is learned, what is left out, what is refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from tests.support.rollouts import rollout_rows, without_signal, write_json_lines
from tests.support.tiny_model import byte_tokenizer
from verl_ext.data.rollout_dataset import RolloutDataset
from verl_ext.data.rollout_rows import RolloutDataConfig
from verl_ext.errors import ConfigError, DataError

TOKENIZER = byte_tokenizer()
OPENING = "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
ROW = {"prompt": "1+1?", "responses": ["2", "It is 3.", "5"], "correct": [1, 0, 0]}


def ids(text: str) -> list[int]:
    return TOKENIZER(text, add_special_tokens=False)["input_ids"]


def with_ids(row: dict, **more) -> dict:
    return {**row, "response_ids": [ids(text + "<|im_end|>") for text in row["responses"]], **more}


@pytest.fixture
def dataset(tmp_path):
    def of(*rows: dict, name: str = "rollouts.jsonl", **options) -> RolloutDataset:
        max_samples = options.pop("max_samples", -1)
        path = write_json_lines(tmp_path / name, list(rows))
        return RolloutDataset([str(path)], TOKENIZER, RolloutDataConfig(**options), max_samples=max_samples)

    return of


@pytest.fixture
def error_of(dataset, tmp_path):
    """The line about the second row, without its `file: row 1: `."""

    def of(bad: dict, good: dict = ROW, **options) -> str:
        with pytest.raises(DataError) as caught:
            dataset(good, bad, **options)
        return str(caught.value).removeprefix(f"{tmp_path / 'rollouts.jsonl'}: row 1: ")

    return of


def texts(data: RolloutDataset, row: int) -> tuple[str, str]:
    """(prompt, learned) of a row."""
    entry = data.row(row)
    learned = entry["loss_mask"].bool()
    return TOKENIZER.decode(entry["input_ids"][~learned]), TOKENIZER.decode(entry["input_ids"][learned])


def test_each_response_follows_its_prompt_and_is_learned_to_its_end(dataset):
    data = dataset(ROW)
    assert [texts(data, row) for row in range(3)] == [
        (OPENING, f"{answer}<|im_end|>") for answer in ("2", "It is 3.", "5")
    ]
    entry = data.row(1)
    assert {name: entry[name].dtype for name in entry} == {
        **{name: torch.int64 for name in ("input_ids", "position_ids", "loss_mask")},
        **{name: torch.float32 for name in ("old_log_probs", "correct", "correct_rate")},
    }
    assert torch.equal(entry["position_ids"], torch.arange(len(entry["input_ids"])))


def test_a_response_that_was_cut_off_gets_no_end(dataset):
    data = dataset({**ROW, "finish_reasons": ["stop", "length", "stop"]})
    assert [texts(data, row)[1] for row in range(3)] == ["2<|im_end|>", "It is 3.", "5<|im_end|>"]


def test_token_ids_are_taken_as_they_are(dataset):
    prompt, responses = ids("ask: "), [ids("yes<|im_end|>"), ids("no"), ids("<|im_end|>")]
    data = dataset({"prompt_ids": prompt, "response_ids": responses, "correct": [True, False, False]})
    for row, response in enumerate(responses):
        entry = data.row(row)
        assert entry["input_ids"].tolist() == prompt + response
        assert entry["loss_mask"].tolist() == [0] * len(prompt) + [1] * len(response)


def test_token_ids_of_responses_follow_a_prompt_in_the_template(dataset):
    data = dataset(with_ids(ROW))
    assert texts(data, 1) == (OPENING, "It is 3.<|im_end|>")


def test_a_prompt_may_be_a_conversation(dataset):
    data = dataset({**ROW, "prompt": [{"role": "user", "content": "1+1?"}]})
    assert texts(data, 0)[0] == OPENING


def test_correct_rates_are_of_the_whole_group_and_rows_know_theirs(dataset):
    data = dataset(ROW, {**ROW, "correct": [1, 1, 0]}, {**ROW, "responses": ["2", "7"], "correct": [0, 1]})
    assert len(data) == 3 and data.num_rows == 8
    assert [list(data.rows_of(group)) for group in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    rates = torch.cat([data.row(row)["correct_rate"] for row in range(8)])
    assert torch.equal(rates, torch.tensor([1 / 3] * 3 + [2 / 3] * 3 + [1 / 2] * 2))
    correct = torch.cat([data.row(row)["correct"] for row in range(8)])
    assert correct.tolist() == [1, 0, 0, 1, 1, 0, 0, 1]
    assert [data.correct_of(row) for row in range(8)] == correct.bool().tolist()


@pytest.mark.parametrize("coding", [(True, False), (1, 0), (1.0, -1.0), (1, -1)], ids=str)
def test_grades_of_any_coding_mean_the_same(dataset, coding):
    right, wrong = coding
    data = dataset({**ROW, "correct": [right, wrong, wrong]})
    assert [data.correct_of(row) for row in range(3)] == [True, False, False]


def test_groups_without_signal_are_left_out_and_counted(dataset):
    rows = rollout_rows(3)
    rows.insert(1, without_signal(rows[0], right=True))
    rows += [without_signal(rows[0], right=False), {**ROW, "responses": ["2"], "correct": [1]}]
    data = dataset(*rows)
    assert len(data) == 3
    assert [data.row_name(group) for group in range(3)] == [f"rollouts.jsonl:{row}" for row in (0, 2, 3)]
    assert data.summary().startswith(
        "3 of 6 prompts have right and wrong responses (2 all right, 1 all wrong: left out, they teach nothing)"
    )
    assert data.summary().endswith("old log-probs of the starting model")


def test_without_any_signal_there_is_nothing_to_learn(dataset):
    with pytest.raises(DataError, match=r"data.rollouts: none of the 2 prompts .* \(1 all right, 1 all wrong, 0 cut"):
        dataset(without_signal(ROW, right=True), without_signal(ROW, right=False))


def test_given_old_log_probs_belong_to_the_tokens_of_their_response(dataset):
    row = with_ids(ROW)
    row["old_log_probs"] = [[-0.5 * t - i for t in range(len(r))] for i, r in enumerate(row["response_ids"])]
    data = dataset(row, with_ids({**ROW, "correct": [1, 1, 1]}, old_log_probs=row["old_log_probs"]), row)
    assert data.gives_old_log_probs
    for row_index in range(data.num_rows):
        entry = data.row(row_index)
        learned = entry["loss_mask"].bool()
        assert entry["old_log_probs"][learned].tolist() == row["old_log_probs"][row_index % 3]
        assert not entry["old_log_probs"][~learned].any()
    assert data.summary().endswith("old log-probs of column 'old_log_probs'")


def test_computed_old_log_probs_are_set_later(dataset):
    data = dataset(*rollout_rows(4))
    assert not data.gives_old_log_probs and not data.row(2)["old_log_probs"].any()
    data.old_log_probs = -np.arange(1, data.response_lengths().sum() + 1, dtype=np.float32)
    found = torch.cat([data.row(r)["old_log_probs"][data.row(r)["loss_mask"].bool()] for r in range(data.num_rows)])
    assert torch.equal(found, torch.from_numpy(data.old_log_probs))


def test_a_response_that_is_too_long_loses_its_end_and_its_log_probs(dataset):
    row = with_ids({**ROW, "responses": ["2", "a long answer", "5"]})
    row["old_log_probs"] = [[-1.0 - t for t in range(len(r))] for r in row["response_ids"]]
    limit = len(ids(OPENING)) + 4
    data = dataset(row, max_length=limit, truncation="right")
    assert texts(data, 1) == (OPENING, "a lo")
    assert data.row(1)["old_log_probs"][-4:].tolist() == [-1.0, -2.0, -3.0, -4.0]
    assert data.row(2)["old_log_probs"][-2:].tolist() == [-1.0, -2.0]
    assert "1 shortened to data.max_length" in data.summary()


def test_a_response_that_is_cut_away_still_counts_in_the_rate(dataset):
    long_prompt = {**ROW, "prompt": "1" * 30}
    limit = len(ids(OPENING)) + 8
    data = dataset(ROW, long_prompt, max_length=limit, truncation="right")
    assert len(data) == 1 and data.counts["dropped"] == 3
    mixed = {
        "prompt_ids": [1] * 10,
        "response_ids": [[2], [3] * 9, [4]],
        "correct": [1, 0, 0],
    }
    data = dataset(mixed, max_length=11, truncation="right")
    assert data.response_lengths().tolist() == [1, 1, 1]
    assert data.row(0)["correct_rate"].item() == pytest.approx(1 / 3)


def test_a_filler_carries_no_loss(dataset):
    filler = dataset(ROW).filler()
    assert {name: value.shape for name, value in filler.items()} == {name: (1,) for name in dataset(ROW).row(0)}
    assert filler["loss_mask"].item() == 0


def test_parquet_gives_what_json_lines_give(dataset, tmp_path):
    rows = [with_ids(row) for row in rollout_rows(5)]
    for row in rows:
        row["old_log_probs"] = [[-0.25] * len(response) for response in row["response_ids"]]
    path = tmp_path / "rollouts.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    parquet = RolloutDataset([str(path)], TOKENIZER, RolloutDataConfig())
    assert parquet.fingerprint() == dataset(*rows).fingerprint()


def test_the_fingerprint_changes_with_tokens_grades_groups_and_given_log_probs(dataset):
    plain = with_ids(ROW, old_log_probs=[[-1.0] * 2, [-1.0] * 9, [-1.0] * 2])
    other_grade = {**plain, "correct": [0, 1, 0]}
    other_rate = {**plain, "correct": [1, 1, 0]}
    other_text = {**plain, "response_ids": [ids("3<|im_end|>"), *plain["response_ids"][1:]]}
    other_old = {**plain, "old_log_probs": [[-1.0] * 2, [-1.0] * 9, [-1.0, -1.5]]}
    halves = [{**plain, **{k: v[:2] for k, v in plain.items() if k != "prompt"}} for _ in range(2)]
    prints = [dataset(*rows).fingerprint() for rows in ([plain], [other_grade], [other_rate], [other_text])]
    prints += [dataset(*rows).fingerprint() for rows in ([other_old], [plain, plain], halves)]
    assert len(set(prints)) == len(prints)
    assert dataset(plain).fingerprint() == prints[0]


def test_renamed_columns_and_a_limit_on_prompts(dataset):
    rows = [{"q": r["prompt"], "samples": r["responses"], "ok": r["correct"]} for r in rollout_rows(6)]
    data = dataset(*rows, prompt_key="q", responses_key="samples", correct_key="ok", max_samples=4)
    assert len(data) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct": [1, 0.5, 0]}, "column 'correct': rewards must be 0 and 1, or -1 and +1; found 0.5"),
        ({"correct": [1, -1, 0]}, "column 'correct': rewards must be 0 and 1, or -1 and +1; found both 0 and -1"),
        ({"correct": [1, None, 0]}, "column 'correct': response 1: holds None, expected 0 or 1, or -1 or +1"),
        ({"correct": [1, 0, "yes"]}, "column 'correct': response 2: holds 'yes', expected 0 or 1, or -1 or +1"),
        ({"correct": [1, 0]}, "column 'responses': 3 entries for 2 in 'correct'"),
        ({"correct": []}, "column 'correct': empty, expected one value for each response"),
        ({"correct": True}, "column 'correct': holds bool where a list was expected"),
        ({"responses": "2"}, "column 'responses': holds str where a list was expected"),
        ({"responses": ["2", None, "5"]}, "column 'responses': response 1: holds null where text was expected"),
        ({"prompt": None}, "column 'prompt' holds null where text was expected"),
        ({"old_log_probs": [[-1.0]] * 3}, "has a column 'old_log_probs', which the first row has not"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_row_that_cannot_be_used_is_named(error_of, change, message):
    assert error_of({**ROW, **change}) == message


OLD = [[-1.0] * 2, [-1.0] * 9, [-1.0] * 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"response_ids": [[1], [2]]}, "column 'response_ids': 2 entries for 3 in 'correct'"),
        ({"response_ids": [[1], [], [2]]}, "column 'response_ids': response 1: expected at least one token id"),
        (
            {"response_ids": [[1], [2], [300]]},
            "column 'response_ids': response 2: 300 is no token of the model, whose ",
        ),
        ({"response_ids": [[1], [-1], [3]]}, "column 'response_ids': response 1: -1 is no token of the model, whose "),
        ({"response_ids": [[1], [1.5], [3]]}, "column 'response_ids': response 1: expected whole numbers, found [1.5]"),
        ({"response_ids": [[1], [[2]], [3]]}, "column 'response_ids': response 1: expected whole numbers, found [[2]]"),
        ({"old_log_probs": OLD[:2]}, "column 'old_log_probs': 2 entries for 3 in 'correct'"),
        (
            {"old_log_probs": [OLD[0], [-1.0] * 8, OLD[2]]},
            "column 'old_log_probs': response 1: 8 values for its 9 tokens",
        ),
        ({"old_log_probs": [OLD[0], None, OLD[2]]}, "column 'old_log_probs': response 1: no values for its 9 tokens"),
        (
            {"old_log_probs": [[-1.0, 0.5], *OLD[1:]]},
            "column 'old_log_probs': response 0: not logarithms of probabilities: [-1.0, 0.5]",
        ),
        (
            {"old_log_probs": [[-1.0, float("nan")], *OLD[1:]]},
            "column 'old_log_probs': response 0: not logarithms of probabilities: [-1.0, nan]",
        ),
        (
            {"old_log_probs": [["-1.0", "-1.0"], *OLD[1:]]},
            "column 'old_log_probs': response 0: not logarithms of probabilities: ['-1.0', '-1.0']",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_tokens_and_log_probs_that_do_not_belong_together_are_named(error_of, change, message):
    good = with_ids(ROW, old_log_probs=OLD)
    assert error_of({**good, **change}, good).startswith(message)


def test_finish_reasons_are_known_ones(error_of):
    row = {**ROW, "finish_reasons": ["stop", "eos", "stop"]}
    good = {**ROW, "finish_reasons": ["stop"] * 3}
    assert error_of(row, good) == "column 'finish_reasons': response 1: 'eos', expected stop or length"


def test_a_response_that_is_too_long_names_its_row(error_of):
    long = {**ROW, "responses": ["2", "3" * 40, "5"]}
    limit = len(ids(OPENING)) + 10
    assert error_of(long, max_length=limit) == f"response 1: {limit + 31} tokens, more than data.max_length={limit}"


def test_log_probs_without_their_tokens_are_refused(dataset):
    with pytest.raises(DataError, match="data.old_log_probs_key: .* has 'old_log_probs' but no 'response_ids'"):
        dataset({**ROW, "old_log_probs": OLD})


@pytest.mark.parametrize(
    ("missing", "options", "message"),
    [
        ("correct", {}, r"data.correct_key: no column 'correct' in .* \(it has: prompt, responses\)"),
        ("responses", {}, "data.responses_key: no column 'responses' nor 'response_ids' in "),
        ("prompt", {}, "data.prompt_key: no column 'prompt' nor 'prompt_ids' in "),
        ("none", {"old_log_probs_key": "logp"}, "data.old_log_probs_key: no column 'logp' in "),
    ],
)
def test_a_column_that_must_be_there_is_named(dataset, missing, options, message):
    with pytest.raises(DataError, match=message):
        dataset({name: value for name, value in ROW.items() if name != missing}, **options)


def test_files_must_agree_on_their_columns(tmp_path):
    paths = [
        str(write_json_lines(tmp_path / "a.jsonl", [with_ids(ROW)])),
        str(write_json_lines(tmp_path / "b.jsonl", [ROW])),
    ]
    with pytest.raises(DataError, match=r"data.response_ids_key: column 'response_ids' is in some files .*b.jsonl"):
        RolloutDataset(paths, TOKENIZER, RolloutDataConfig())


def test_an_empty_file_is_named(tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text("")
    with pytest.raises(DataError, match=f"^data.rollouts: no rows in {path}$"):
        RolloutDataset([str(path)], TOKENIZER, RolloutDataConfig())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"truncation": "left"}, "data.truncation: got 'left', expected right or error"),
        ({"max_length": 1}, "data.max_length: got 1, expected at least 2 tokens"),
    ],
)
def test_a_length_setting_that_cannot_work_is_named(options, message):
    with pytest.raises(ConfigError, match=message):
        RolloutDataConfig(**options)
