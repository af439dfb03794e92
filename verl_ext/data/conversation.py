"""From a row to text pieces that are learned or not: chat templates, thinking text, the end of a turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jinja2.exceptions import TemplateError

from verl_ext.data.messages import ConversationError, text_messages, without_nulls

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Piece:
    """A run of text; `learned` says whether its tokens carry loss."""

    text: str
    learned: bool


MARK = "train"
"""Key of a message that says whether it is learned."""

PROBE = "Zq7probe7qZ"
"""Stands for an answer where a template is asked what it writes behind one."""


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
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        opening = self.prompt(messages)
        if response.lstrip().startswith("<think>"):
            opening = _without_opened_think(opening)
        return [Piece(opening, False), Piece(response + self._eos if ended else response, True)]

    def prompt(self, messages: Sequence[Mapping[str, Any]], *, tools: Any = None) -> str:
        """A conversation up to where the model's turn begins.

        Raises:
            ConversationError: a message is not text, or the template refuses the conversation.
        """
        return self._render(text_messages(messages), add_generation_prompt=True, tools=without_nulls(tools))

    def messages(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Any = None,
        last_turn_only: bool = False,
        marks: Sequence[bool | None] | None = None,
    ) -> list[Piece]:
        """A whole conversation; every assistant turn is learned, up to and including what ends it.

        Args:
            last_turn_only: learn the final assistant turn alone.
            marks: of each message, whether it is learned whatever the above says; None where that decides. A message's
                own `train` counts likewise, and does not reach the template.

        Returns:
            Its pieces; nothing where no turn is to be learned.

        Raises:
            ConversationError: there is no assistant turn, or none before it; or the template rewrites earlier turns
                once later ones follow, so that the text of an earlier turn is not what the model would have written;
                or a mark that cannot be.
        """
        messages, tools = text_messages(messages), without_nulls(tools)
        marks = _marks(messages, marks)
        messages = [{key: value for key, value in message.items() if key != MARK} for message in messages]
        turns = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
        if not turns:
            raise ConversationError("no assistant message")
        usual = turns[-1:] if last_turn_only else turns
        turns = [i for i in turns if (i in usual if marks[i] is None else marks[i])]
        if not turns:
            return []
        if turns[0] == 0:
            raise ConversationError("the assistant speaks first, with nothing to answer; leave out that message")
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
            written, added = self._turn(messages, turn, before, after[len(before) :], tools)
            pieces += [Piece(before[len(rendered) :], False), Piece(written + added, True)]
            rendered = before + written
        return pieces

    def _turn(self, messages: list[dict[str, Any]], turn: int, before: str, text: str, tools: Any) -> tuple[str, str]:
        """What is learned of a turn: as the template writes it, and the EOS that is missing there.

        A template that writes something behind an answer ends the turn with it, be it one of the tokenizer's special
        tokens or not. If it writes nothing, the special token with which the next turn begins ends this one. Only
        where there is neither, or no next turn, EOS is needed.

        Args:
            before: what stands before the turn.
            text: the turn where it is the last one, as the template writes it.
        """
        written = text.rstrip()
        closing = self._usual_closing
        if not _closes(closing, written):
            closing = self._closing(messages[:turn], tools)
        if _closes(closing, written) or written.endswith(self._special_tokens):
            return written, ""
        open_turn = text.removesuffix(closing) if not closing.strip() else text
        if turn + 1 < len(messages):
            longer = self._render(messages[: turn + 2], tools=tools)
            if longer.startswith(before + written):
                follows = longer[len(before) + len(written) :]
                header = follows.lstrip()
                token = next((token for token in self._special_tokens if header.startswith(token)), None)
                if token is not None:
                    return written + follows[: len(follows) - len(header)] + token, ""
        return open_turn, self._eos

    @property
    def _eos(self) -> str:
        return self.tokenizer.eos_token

    @cached_property
    def _special_tokens(self) -> tuple[str, ...]:
        """Those that the tokenizer names and those that it only holds, the longest first."""
        held = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        return tuple(sorted({*self.tokenizer.all_special_tokens, *held}, key=lambda token: (-len(token), token)))

    @cached_property
    def _usual_closing(self) -> str:
        """What the template writes behind an answer in the shortest conversation; empty where it refuses that one."""
        try:
            return self._closing([{"role": "user", "content": PROBE[::-1]}], None)
        except ConversationError:
            return ""

    def _closing(self, messages: list[dict[str, Any]], tools: Any) -> str:
        """What the template writes behind the last answer of a conversation."""
        rendered = self._render([*messages, {"role": "assistant", "content": PROBE}], tools=tools)
        _, found, closing = rendered.rpartition(PROBE)
        return closing if found else ""

    def _render(self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = False, tools=None) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                list(messages),
                tools=tools or None,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
                **self.template_kwargs,
            )
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
            raise ConversationError(f"the chat template refuses it ({' '.join(str(error).split())})") from error


def _marks(messages: Sequence[Mapping[str, Any]], given: Sequence[bool | None] | None) -> list[bool | None]:
    """Whether each message is learned, where something says so of that message itself."""
    marks = list(given or [None] * len(messages))
    if len(marks) != len(messages):
        raise ConversationError(f"{len(messages)} messages, and {len(marks)} marks of whether they are learned")
    for i, message in enumerate(messages):
        own = message.get(MARK)
        for mark in (marks[i], own):
            if mark is not None and not isinstance(mark, bool):
                raise ConversationError(f"message {i} is marked {mark!r}, expected true or false")
        if own is not None and marks[i] not in (None, own):
            raise ConversationError(f"message {i} has {MARK!r}: {own}, and {marks[i]} in the column of marks")
        marks[i] = own if marks[i] is None else marks[i]
        if marks[i] and message.get("role") != "assistant":
            raise ConversationError(f"message {i} is to be learned, and is not the assistant's")
    return marks


def _closes(closing: str, written: str) -> bool:
    return bool(closing.strip()) and written.endswith(closing.strip())


def _without_opened_think(text: str) -> str:
    """Drop a <think> that the generation prompt opens: the response brings its own, which is learned."""
    stripped = text.rstrip()
    return stripped.removesuffix("<think>") if stripped.endswith("<think>") else text
