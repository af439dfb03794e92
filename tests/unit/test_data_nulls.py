"""Rows mean the same as JSON lines and as parquet, which gives every message every key that one of them has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.conftest import write_parquet
from tests.support.tiny_model import byte_tokenizer
from verl_ext.data.prompt_dataset import PromptDataset
from verl_ext.data.reading import iterate_rows
from verl_ext.data.rollout_dataset import RolloutDataset
from verl_ext.data.rollout_rows import RolloutDataConfig
from verl_ext.data.sft_dataset import SFTDataConfig, SFTDataset
from verl_ext.errors import DataError
from verl_ext.evaluation.benchmarks import fingerprint, load_problems
from verl_ext.evaluation.prompts import PromptBuilder, PromptOptions

TEMPLATE = (
    "{% if tools %}[{% for tool in tools %}{{ tool | tojson }}{% endfor %}]\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.name is defined %}{{ m.name | upper }}: {% endif %}"
    "{% if m.reasoning_content is defined %}<think>{{ m.reasoning_content | trim }}</think>{% endif %}{{ m.content }}"
    "{% if 'tool_calls' in m %}{% for call in m.tool_calls %}{{ call.function.name }}"
    "({% for name, value in call.function.arguments.items() %}{{ name }}={{ value + 0 }};{% endfor %}){% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Asks which keys are there, as templates of models that think and call tools do."""


def call(name: str, **arguments: int) -> dict:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def tool(name: str, **properties: dict) -> dict:
    return {"type": "function", "function": {"name": name, "parameters": {"properties": properties}}}


CHATS = [
    {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}], "tools": None},
    {
        "messages": [
            {"role": "user", "content": "3*2?", "name": "ann"},
            {"role": "assistant", "content": "", "tool_calls": [call("multiply", a=3, b=2)]},
            {"role": "tool", "content": "6"},
            {"role": "assistant", "content": "6", "reasoning_content": "It says 6."},
        ],
        "tools": [tool("multiply", a={"type": "integer"}, b={"type": "integer"})],
    },
    {
        "messages": [
            {"role": "user", "content": "-4?"},
            {"role": "assistant", "tool_calls": [call("negate", x=4)]},
            {"role": "tool", "content": "-4"},
            {"role": "assistant", "content": "-4"},
        ],
        "tools": [tool("negate", x={"type": "integer", "minimum": 0})],
    },
]


@pytest.fixture
def both(tmp_path):
    """Write rows as JSON lines and as parquet."""

    def _both(rows: list[dict]) -> tuple[Path, Path]:
        lines = tmp_path / "rows.jsonl"
        lines.write_text("\n".join(map(json.dumps, rows)))
        return lines, write_parquet(tmp_path / "rows.parquet", rows)

    return _both


def test_parquet_does_fill_in_nulls(both):
    """What the tests below are about; without it they would show nothing."""
    _, parquet = both(CHATS)
    first = next(iterate_rows(str(parquet)))["messages"][0]
    assert first["tool_calls"] is None and first["reasoning_content"] is None


def test_chats_are_the_same_tokens_in_either_format(both):
    lines, parquet = (
        SFTDataset([str(path)], byte_tokenizer(TEMPLATE), SFTDataConfig(max_length=4096)) for path in both(CHATS)
    )
    assert len(lines) == len(parquet) == 3
    for row in range(3):
        ours, theirs = lines[row], parquet[row]
        assert {name: ours[name].tolist() for name in ours} == {name: theirs[name].tolist() for name in theirs}
    text = byte_tokenizer().decode(parquet[1]["input_ids"])
    assert "user\nANN: 3*2?" in text and "multiply(a=3;b=2;)" in text and "<think>It says 6.</think>6" in text
    assert "minimum" not in text and "None" not in text


def test_tools_may_be_json(both):
    """The usual way to keep schemas that differ in one column."""
    rows = [row | {"tools": row["tools"] and json.dumps(row["tools"])} for row in CHATS]
    listed = SFTDataset([str(both(CHATS)[0])], byte_tokenizer(TEMPLATE), SFTDataConfig(max_length=4096))
    written = SFTDataset([str(both(rows)[1])], byte_tokenizer(TEMPLATE), SFTDataConfig(max_length=4096))
    assert [row["input_ids"].tolist() for row in listed] == [row["input_ids"].tolist() for row in written]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("tools", "[", "column 'tools' holds text that is not JSON"),
        ("tools", 7, "column 'tools' is not a list of tools"),
        ("tools", [None], "column 'tools' is not a list of tools"),
        ("enable_thinking", "false", "column 'enable_thinking' holds 'false', expected true or false"),
    ],
)
def test_a_column_beside_the_messages_that_cannot_be_read_names_its_row(tmp_path, column, value, message):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in [CHATS[0], CHATS[0] | {column: value}]))
    with pytest.raises(DataError, match=f"rows.jsonl: row 1: {message}"):
        SFTDataset([str(path)], byte_tokenizer(TEMPLATE), SFTDataConfig(max_length=4096))


PROMPTS = [
    {
        "prompt": prompt,
        "responses": ["2", "3"],
        "correct": [1, 0],
        "data_source": "math",
        "reward_model": {"ground_truth": "2"},
    }
    for prompt in (
        [{"role": "user", "content": "1+1?"}],
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "4-2?", "name": "bob"}],
    )
]


def test_graded_generations_are_the_same_tokens_in_either_format(both):
    lines, parquet = (
        RolloutDataset([str(path)], byte_tokenizer(TEMPLATE), RolloutDataConfig(max_length=512))
        for path in both(PROMPTS)
    )
    assert lines.fingerprint() == parquet.fingerprint()
    text = byte_tokenizer().decode(parquet.row(0)["input_ids"])
    assert text == "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n2<|im_end|>"


def online_dataset(path: Path, template: str = TEMPLATE, **more) -> PromptDataset:
    config = {"max_prompt_length": 100, "filter_overlong_prompts_workers": 1, "cache_dir": str(path.parent)}
    return PromptDataset(str(path), byte_tokenizer(template), OmegaConf.create(config | more))


def test_prompts_of_online_training_have_no_nulls_in_either_format(both):
    """verl's reader makes one schema of JSON lines as well."""
    for path in both(PROMPTS):
        prompts = [online_dataset(path)[row]["raw_prompt"] for row in range(2)]
        assert prompts == [row["prompt"] for row in PROMPTS]


def test_long_prompts_of_online_training_are_left_out(both):
    lines, _ = both(PROMPTS)
    tokenizer = byte_tokenizer(TEMPLATE)
    text = tokenizer.apply_chat_template(PROMPTS[0]["prompt"], tokenize=False, add_generation_prompt=True)
    length = len(tokenizer(text)["input_ids"])
    assert [row["raw_prompt"] for row in online_dataset(lines, max_prompt_length=length)] == [PROMPTS[0]["prompt"]]
    assert len(online_dataset(lines, max_prompt_length=length - 1)) == 0
    assert len(online_dataset(lines, max_prompt_length=length, filter_overlong_prompts=False)) == 2


def test_a_prompt_that_the_template_refuses_ends_the_run(both):
    """verl leaves such prompts out, with a traceback each."""
    refusing = "{{ raise_exception('no names') if messages[-1].name is defined }}" + TEMPLATE
    with pytest.raises(
        DataError, match=r"rows.jsonl: the prompt .*Be brief.*the chat template refuses it \(no names\)"
    ):
        online_dataset(both(PROMPTS)[0], refusing)


def test_an_evaluation_asks_the_same_in_either_format(both):
    lines, parquet = (load_problems(str(path), data_dir=None, data_source=None) for path in both(PROMPTS))
    assert fingerprint(lines) == fingerprint(parquet)
    for tokenizer in (byte_tokenizer(TEMPLATE), None):
        builder = PromptBuilder(PromptOptions(prompt_type="chat"), tokenizer)
        for ours, theirs, row in zip(lines, parquet, PROMPTS, strict=True):
            assert builder.build(ours) == builder.build(theirs)
            assert list(builder.build(theirs).messages) == row["prompt"]
