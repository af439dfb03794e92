"""From rows to tokens: what is learned, what is cut, what is dropped."""

from __future__ import annotations

import json

import pytest

from tests.conftest import arithmetic_rows, write_parquet
from tests.support.tiny_model import CHAT_TEMPLATE, byte_tokenizer
from verl_ext.data.sft_dataset import SFTDataConfig, SFTDataset
from verl_ext.errors import DataError

THINKING_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and not loop.last %}{{ m['content'].split('</think>')[-1] }}"
    "{% else %}{{ m['content'] }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
"""Like the templates of thinking models: drops the thinking of earlier turns, opens <think> for a new one."""


def learned_text(dataset: SFTDataset, index: int = 0) -> str:
    row = dataset[index]
    return byte_tokenizer().decode(row["input_ids"][row["loss_mask"].bool()])


def whole_text(dataset: SFTDataset, index: int = 0) -> str:
    return byte_tokenizer().decode(dataset[index]["input_ids"])


def single_turn(tmp_path, rows, *, template: str = CHAT_TEMPLATE, **options) -> SFTDataset:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    config = SFTDataConfig(prompt_key="prompt", response_key="response", **options)
    return SFTDataset([str(path)], byte_tokenizer(template), config)


def chats(tmp_path, rows, *, template: str = CHAT_TEMPLATE, **options) -> SFTDataset:
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(json.dumps({"messages": row}) for row in rows))
    return SFTDataset([str(path)], byte_tokenizer(template), SFTDataConfig(**options))


TURNS = [
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4"},
]


def test_the_response_and_its_end_are_learned_and_nothing_else(tmp_path):
    dataset = single_turn(tmp_path, [{"prompt": "1+1?", "response": "It is 2."}])
    assert learned_text(dataset) == "It is 2.<|im_end|>"
    assert whole_text(dataset) == "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\nIt is 2.<|im_end|>"


def test_positions_count_from_zero_and_shapes_agree(tmp_path):
    row = single_turn(tmp_path, [{"prompt": "a", "response": "b"}])[0]
    assert row["position_ids"].tolist() == list(range(len(row["input_ids"])))
    assert row["loss_mask"].shape == row["input_ids"].shape


def test_thinking_text_is_learned_once(tmp_path):
    """The generation prompt opens <think>, the response brings its own."""
    response = "<think>\n1 and 1\n</think>\n\n2"
    dataset = single_turn(tmp_path, [{"prompt": "1+1?", "response": response}], template=THINKING_TEMPLATE)
    assert learned_text(dataset) == response + "<|im_end|>"
    assert whole_text(dataset).count("<think>") == 1


def test_every_assistant_turn_of_a_chat_is_learned(tmp_path):
    dataset = chats(tmp_path, [TURNS])
    assert learned_text(dataset) == "2<|im_end|>4<|im_end|>"
    rendered = byte_tokenizer().apply_chat_template(TURNS, tokenize=False)
    assert whole_text(dataset) == rendered.removesuffix("\n")


def test_only_the_last_turn_is_learned_when_asked(tmp_path):
    assert learned_text(chats(tmp_path, [TURNS], train_on_turns="last")) == "4<|im_end|>"


def test_a_template_that_rewrites_earlier_turns_is_refused_unless_only_the_last_is_learned(tmp_path):
    thinking = [dict(turn) for turn in TURNS]
    thinking[1]["content"] = "<think>\none and one\n</think>\n\n2"
    thinking[3]["content"] = "<think>\ntwo and two\n</think>\n\n4"
    with pytest.raises(DataError, match="row 0: the chat template rewrites earlier turns .* data.train_on_turns=last"):
        chats(tmp_path, [thinking], template=THINKING_TEMPLATE)
    dataset = chats(tmp_path, [thinking], template=THINKING_TEMPLATE, train_on_turns="last")
    assert learned_text(dataset) == "<think>\ntwo and two\n</think>\n\n4<|im_end|>"


def test_a_prompt_may_be_a_chat_as_in_the_columns_of_online_training(tmp_path):
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1+1?"}]
    dataset = single_turn(tmp_path, [{"prompt": prompt, "response": "2"}])
    assert whole_text(dataset).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n1+1?")
    assert learned_text(dataset) == "2<|im_end|>"


@pytest.mark.parametrize("truncation", ["right", "left"])
def test_a_long_row_is_cut_to_max_length(tmp_path, truncation):
    rows = [{"prompt": "p" * 10, "response": "r" * 100}]
    dataset = single_turn(tmp_path, rows, max_length=60, truncation=truncation)
    assert len(dataset[0]["input_ids"]) == 60
    assert dataset.counts["truncated"] == 1
    end = whole_text(dataset).endswith("<|im_end|>")
    assert end == (truncation == "left")


def test_a_row_too_long_is_an_error_when_asked(tmp_path):
    with pytest.raises(DataError, match=r"row 0: \d+ tokens, more than data.max_length=20"):
        single_turn(tmp_path, [{"prompt": "p" * 30, "response": "r"}], max_length=20, truncation="error")


def test_a_row_whose_response_was_cut_away_is_dropped_and_counted(tmp_path):
    rows = [
        {"prompt": "p" * 80, "response": "gone"},
        {"prompt": "p", "response": "here"},
        {"prompt": "q" * 90, "response": "gone"},
    ]
    dataset = single_turn(tmp_path, rows, max_length=64)
    assert (len(dataset), dataset.counts["dropped"]) == (1, 2)
    assert learned_text(dataset) == "here<|im_end|>"
    assert dataset.row_name(0) == "rows.jsonl:1"
    assert "1 rows from 1 file(s)" in dataset.summary()
    assert "2 dropped because their response was cut away" in dataset.summary()


def test_many_files_of_both_kinds_keep_their_order(tmp_path):
    parquet = write_parquet(tmp_path / "a.parquet", [{"prompt": f"p{i}", "response": f"r{i}"} for i in range(700)])
    lines = tmp_path / "b.jsonl"
    lines.write_text("\n".join(json.dumps({"prompt": f"p{i}", "response": f"r{i}"}) for i in range(700, 703)))
    config = SFTDataConfig(prompt_key="prompt", response_key="response")
    dataset = SFTDataset([str(parquet), str(lines)], byte_tokenizer(), config)
    assert [learned_text(dataset, i) for i in (0, 511, 512, 699, 702)] == [
        f"r{i}<|im_end|>" for i in (0, 511, 512, 699, 702)
    ]
    assert (dataset.row_name(699), dataset.row_name(702)) == ("a.parquet:699", "b.jsonl:2")


def test_max_samples_takes_the_first_rows(tmp_path):
    path = write_parquet(tmp_path / "rows.parquet", arithmetic_rows(20))
    config = SFTDataConfig(
        prompt_key="extra_info", response_key="extra_info", prompt_dict_keys=["question"], response_dict_keys=["answer"]
    )
    assert len(SFTDataset([str(path)], byte_tokenizer(), config, max_samples=6)) == 6


def test_a_message_without_text_names_its_row(tmp_path):
    bad = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": None}]
    with pytest.raises(DataError, match="row 1: message 1 holds null where text was expected"):
        chats(tmp_path, [TURNS, bad])
