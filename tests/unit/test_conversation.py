"""Where a turn ends is the template's to say: EOS is added only where it leaves a turn open."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from tests.support.tiny_model import CHAT_TEMPLATE, byte_tokenizer
from verl_ext.data.conversation import ConversationRenderer
from verl_ext.data.messages import ConversationError

CHAT = [
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "2"},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4"},
]


def tokenizer(template: str, *, eos: str = "<eos>", special: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A tokenizer whose EOS and further special tokens are its own; it knows the latter under no name, as many do."""
    made = byte_tokenizer(template)
    made.add_tokens([AddedToken(token, special=True, normalized=False) for token in (eos, *special)], True)
    made.eos_token = eos
    assert not set(special) & set(made.all_special_tokens)
    return made


HEADERS = "{% for m in messages %}<start>{{ 'model' if m.role == 'assistant' else m.role }}\n"
OPENING = "{% endfor %}{% if add_generation_prompt %}<start>model\n{% endif %}"
TEMPLATES = {
    "a token that the tokenizer has no name for": (
        HEADERS + "{{ m.content | trim }}<end_of_turn>\n" + OPENING,
        ("<start>", "<end_of_turn>"),
        ["2<end_of_turn>", "4<end_of_turn>"],
    ),
    "text that is no token": (
        HEADERS + "{{ m.content }}\n### end\n" + OPENING,
        ("<start>",),
        ["2\n### end", "4\n### end"],
    ),
    "EOS": (HEADERS + "{{ m.content }}<eos>\n" + OPENING, ("<start>",), ["2<eos>", "4<eos>"]),
    "the header of the next turn": (
        (
            "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
        ),
        ("<|user|>", "<|assistant|>"),
        ["2<|user|>", "4<eos>"],
    ),
    "a line, then the header of the next turn": (
        (
            "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}<|assistant|>{% endif %}"
        ),
        ("<|user|>", "<|assistant|>"),
        ["2\n<|user|>", "4<eos>"],
    ),
    "EOS between turns alone": (
        (
            "{% for m in messages %}{{ m.role }}: {{ m.content }}{% if not loop.last %}<eos>{% endif %}{% endfor %}"
            "{% if add_generation_prompt %}<eos>assistant: {% endif %}"
        ),
        (),
        ["2<eos>", "4<eos>"],
    ),
    "nothing": (
        (
            "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}"
        ),
        (),
        ["2<eos>", "4<eos>"],
    ),
}


@pytest.mark.parametrize("ending", TEMPLATES)
def test_what_ends_a_turn_is_learned(ending):
    template, special, learned = TEMPLATES[ending]
    pieces = ConversationRenderer(tokenizer(template, special=special)).messages(CHAT)
    assert [piece.text for piece in pieces if piece.learned] == learned


@pytest.mark.parametrize("ending", TEMPLATES)
def test_a_template_that_ends_its_turns_is_followed_to_the_letter(ending):
    """All pieces together are the rendered conversation; EOS follows it where its last turn is open."""
    template, special, learned = TEMPLATES[ending]
    made = tokenizer(template, special=special)
    text = "".join(piece.text for piece in ConversationRenderer(made).messages(CHAT))
    rendered = made.apply_chat_template(CHAT, tokenize=False).rstrip()
    if ending == "nothing":
        assert text == rendered.replace("assistant: 2", "assistant: 2<eos>") + "<eos>"
    else:
        assert text == (rendered if learned[-1] in rendered else rendered + "<eos>")


def test_eos_is_not_put_behind_another_end_of_turn():
    """Base models keep EOS for the end of a text, and their chat template ends turns with another token."""
    made = byte_tokenizer(CHAT_TEMPLATE)
    made.eos_token = "<|endoftext|>"
    text = "".join(piece.text for piece in ConversationRenderer(made).messages(CHAT))
    assert "<|endoftext|>" not in text
    assert text == made.apply_chat_template(CHAT, tokenize=False).rstrip()


TOOL_TEMPLATE = (
    "{% if tools %}<start>tools\n{{ tools | tojson }}<end>\n{% endif %}"
    "{% for m in messages %}<start>{{ m.role }}\n"
    "{% if m.tool_calls is defined %}{% for call in m.tool_calls %}<call>{{ call.function | tojson }}{% endfor %}<eom>"
    "{% else %}{{ m.content }}<end>{% endif %}\n{% endfor %}{% if add_generation_prompt %}<start>assistant\n{% endif %}"
)


def test_a_turn_that_calls_a_tool_ends_as_the_template_ends_it():
    call = {"function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
    chat = [
        CHAT[0],
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "It is 3."},
    ]
    made = tokenizer(TOOL_TEMPLATE, special=("<start>", "<end>", "<eom>"))
    pieces = ConversationRenderer(made).messages(chat)
    called = '<call>{"name": "add", "arguments": {"a": 1, "b": 2}}<eom>'
    assert [piece.text for piece in pieces if piece.learned] == [called, "It is 3.<end>"]


@pytest.mark.parametrize(
    ("chat", "message"),
    [
        ([], "no messages"),
        (CHAT[1:], "the assistant speaks first, with nothing to answer"),
        (CHAT[:1], "no assistant message"),
        ([CHAT[0], {"role": "assistant", "content": 4}], "message 1 holds int where text was expected"),
        ([{"role": "user"}, CHAT[1]], "message 0 holds null where text was expected"),
        (
            [{"role": "user", "content": [{"type": "text", "text": None}]}, CHAT[1]],
            "part 0 of message 0 holds null where text was expected",
        ),
        (
            [{"role": "user", "content": [{"type": "image", "url": "x"}]}, CHAT[1]],
            "part 0 of message 0 holds image where text was expected",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_chat_that_cannot_be_trained_on_is_named(chat, message):
    with pytest.raises(ConversationError, match=message):
        ConversationRenderer(byte_tokenizer()).messages(chat)


def test_a_chat_may_begin_with_the_assistant_where_only_the_last_turn_is_learned():
    pieces = ConversationRenderer(byte_tokenizer()).messages(CHAT[1:], last_turn_only=True)
    assert [piece.text for piece in pieces if piece.learned] == ["4<|im_end|>"]


@pytest.mark.parametrize(
    "refusal", ["{{ raise_exception('no') }}", "{{ messages[9].content }}", "{{ 1 / 0 }}", "{{ messages.pop(9) }}"]
)
def test_a_template_that_fails_is_an_error_of_the_row(refusal):
    with pytest.raises(ConversationError, match="the chat template refuses it"):
        ConversationRenderer(byte_tokenizer(refusal)).messages(CHAT)


def test_content_in_parts_is_one_text():
    """Many templates would write the list as Python does."""
    parts = [{"type": "text", "text": "1"}, {"type": "text", "text": "+1?"}]
    renderer = ConversationRenderer(byte_tokenizer())
    assert renderer.prompt([{"role": "user", "content": parts}]) == renderer.prompt(CHAT[:1])
