"""From a row to text pieces that are learned or not: chat templates, thinking text, the end of a turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Piece:
    """A run of text; `learned` says whether its tokens carry loss."""

    text: str
    learned: bool


class ConversationError(ValueError):
    """A row that the chat template cannot render, or not in a way that can be trained on."""


class ConversationRenderer:
    """Renders rows with a tokenizer's chat template.

    Args:
        tokenizer: with a chat template and an EOS token.
        template_kwargs: handed to the template in every call.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template_kwargs: Mapping[str, Any] | None = None) -> None:
        self.tokenizer = tokenizer
        self.template_kwargs = dict(template_kwargs or {})

    def prompt_and_response(
        self, prompt: str | Sequence[Mapping[str, Any]], response: str, *, ended: bool = True
    ) -> list[Piece]:
        """A prompt in the chat template, then the response as it stands, then EOS unless it was cut off (`ended`).

        The response does not pass through the template: templates of thinking models rewrite or drop the text
        between <think> and </think>, which is to be learned.
        """
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        opening = self._render(messages, add_generation_prompt=True)
        if response.lstrip().startswith("<think>"):
            opening = _without_opened_think(opening)
        return [Piece(opening, False), Piece(response + self._eos if ended else response, True)]

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """A conversation up to where the model's turn begins.

        Raises:
            ConversationError: the template refuses it.
        """
        return self._render(messages, add_generation_prompt=True)

    def messages(
        self, messages: Sequence[Mapping[str, Any]], *, tools: Any = None, last_turn_only: bool = False
    ) -> list[Piece]:
        """A whole conversation; every assistant turn is learned, up to and including its end-of-turn token.

        Raises:
            ConversationError: there is no assistant turn, or the template rewrites earlier turns once later ones
                follow, so that the text of an earlier turn is not the text the model would have written.
        """
        for i, message in enumerate(messages):
            if not isinstance(message.get("content"), str):
                found = "null" if message.get("content") is None else type(message["content"]).__name__
                raise ConversationError(f"message {i} holds {found} where text was expected")
        turns = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
        if not turns:
            raise ConversationError("no assistant message")
        if last_turn_only:
            turns = turns[-1:]
        pieces: list[Piece] = []
        rendered = ""
        for turn in turns:
            before = self._render(messages[:turn], add_generation_prompt=True, tools=tools)
            after = self._render(messages[: turn + 1], tools=tools)
            if messages[turn]["content"].lstrip().startswith("<think>") or not after.startswith(before):
                before = _without_opened_think(before)
            if not after.startswith(before) or not before.startswith(rendered):
                raise ConversationError(
                    "the chat template rewrites earlier turns of a conversation; set data.train_on_turns=last"
                )
            learned, trailing = self._split_after_end_of_turn(after[len(before) :])
            pieces += [Piece(before[len(rendered) :], False), Piece(learned, True)]
            rendered = after[: len(after) - len(trailing)]
        return pieces

    @property
    def _eos(self) -> str:
        return self.tokenizer.eos_token

    def _split_after_end_of_turn(self, text: str) -> tuple[str, str]:
        """Split an assistant turn behind its last special token; a turn that has none gets EOS."""
        specials = [token for token in self.tokenizer.all_special_tokens if token in text]
        end = max((text.rfind(token) + len(token) for token in specials), default=0)
        if end and not text[end:].strip():
            return text[:end], text[end:]
        return text + self._eos, ""

    def _render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False, tools=None) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                list(messages),
                tools=tools,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
                **self.template_kwargs,
            )
        except (TemplateError, TypeError, KeyError) as error:
            raise ConversationError(f"the chat template refuses it ({error})") from error


def is_messages(value: Any) -> bool:
    """Whether it is a list of {role, ...}, as chat templates take them."""
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in value)
    )


def _without_opened_think(text: str) -> str:
    """Drop a <think> that the generation prompt opens: the response brings its own, which is learned."""
    stripped = text.rstrip()
    return stripped.removesuffix("<think>") if stripped.endswith("<think>") else text
