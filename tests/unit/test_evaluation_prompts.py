"""Prompts: the published templates character for character, and the tokenizer's own."""

import json
from pathlib import Path

import pytest

from tests.support.tiny_model import byte_tokenizer
from verl_ext.errors import ConfigError, DataError
from verl_ext.evaluation.benchmarks import Problem
from verl_ext.evaluation.prompts import PROMPT_TYPES, PromptBuilder, PromptOptions

PUBLISHED = json.loads((Path(__file__).parents[1] / "golden" / "qwen_prompts.json").read_text(encoding="utf-8"))
PROBLEM = Problem("math500", 0, PUBLISHED["question"], "1", "math500")
THINKING_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)


def builder(prompt_type="chat", tokenizer=None, **options):
    return PromptBuilder(PromptOptions(prompt_type=prompt_type, **options), tokenizer or byte_tokenizer())


@pytest.mark.parametrize("name", sorted(PROMPT_TYPES))
def test_prompt_is_the_published_one_character_for_character(name):
    assert builder(name).build(PROBLEM).text == PUBLISHED["prompts"][name]


@pytest.mark.parametrize("name", ["qwen-boxed", "deepseek-math", "cot"])
def test_token_ids_are_those_of_the_text(name):
    tokenizer = byte_tokenizer()
    prompt = builder(name, tokenizer).build(PROBLEM)
    assert tokenizer.decode(prompt.token_ids, skip_special_tokens=False) == prompt.text


def test_a_template_gets_the_beginning_of_text_and_a_chat_keeps_its_own():
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer()
    bos = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", bos)]
    )
    assert builder("cot", tokenizer).build(PROBLEM).token_ids[0] == bos
    assert bos not in builder("chat", tokenizer).build(PROBLEM).token_ids


def test_chat_asks_the_problem_and_the_instruction():
    text = builder().build(PROBLEM).text
    user = f"{PROBLEM.question}\nPlease reason step by step, and put your final answer within \\boxed{{}}."
    assert text == f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize("system", ["", "Be brief."])
def test_chat_takes_a_system_prompt_of_ones_own(system):
    prompt = builder(system_prompt=system, instruction="").build(PROBLEM)
    assert prompt.messages == ({"role": "system", "content": system}, {"role": "user", "content": PROBLEM.question})
    assert prompt.text.startswith(
        f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{PROBLEM.question}<|im_end|>"
    )


def test_thinking_is_handed_to_the_template():
    tokenizer = byte_tokenizer(THINKING_TEMPLATE)
    assert builder(tokenizer=tokenizer, thinking=False).build(PROBLEM).text.endswith("<think>\n\n</think>\n\n")
    assert builder(tokenizer=tokenizer, thinking=True).build(PROBLEM).text.endswith("assistant\n")


def test_a_prompt_of_the_data_is_asked_as_it_stands():
    messages = ({"role": "user", "content": "What is 1 + 1?"},)
    problem = Problem("own", 3, "1 + 1", "2", "math", messages)
    assert builder().build(problem).messages == messages
    assert builder("cot").build(problem).text == "Question: 1 + 1\nAnswer:"


def test_stops_are_tokens_where_the_tokenizer_has_them_and_texts_elsewhere():
    built = builder("numina")
    assert built.stop_token_ids == tuple(byte_tokenizer().convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]))
    assert built.stop == ("</s>", "<|eot_id|>", "<|end_of_text|>", "<｜end▁of▁sentence｜>", "\n### Problem")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_type": "qwen-box"}, "prompt_type: got 'qwen-box', expected .*did you mean 'qwen-boxed'.*numina"),
        ({"prompt_type": "cot", "thinking": True}, "thinking: got True, expected nothing, or prompt_type=chat"),
        ({"prompt_type": "cot", "system_prompt": "x"}, "system_prompt"),
    ],
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        PromptOptions(**options)


def test_what_the_tokenizer_lacks_is_said():
    with pytest.raises(ConfigError, match="no chat template"):
        builder(tokenizer=byte_tokenizer(None))
    with pytest.raises(ConfigError, match="thinking: got False, expected null"):
        builder(thinking=False)


def test_a_chat_that_the_template_refuses_names_its_problem():
    tokenizer = byte_tokenizer("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(DataError, match="math500 problem 0: the chat template refuses it .roles must alternate"):
        builder(tokenizer=tokenizer).build(PROBLEM)
