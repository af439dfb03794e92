"""Prompts of online training: verl's data set, whose messages are as every other reader of ours has them."""

from __future__ import annotations

import math
from typing import Any

import datasets
from verl.utils.dataset.rl_dataset import RLHFDataset

from verl_ext.data.conversation import ConversationRenderer
from verl_ext.data.messages import ConversationError, text_messages, without_nulls
from verl_ext.errors import DataError

SHOWN_CHARACTERS = 60


class PromptDataset(RLHFDataset):
    """See `RLHFDataset`. Keys of messages that are null are absent, and content in parts of text is one text.

    verl leaves out a prompt that the chat template refuses, with a traceback. It is an error here.

    Raises:
        DataError: a prompt that the chat template refuses, or a message that is no text.
    """

    def maybe_filter_out_long_prompts(self, dataframe: datasets.Dataset) -> datasets.Dataset:
        if self.processor is not None:
            return super().maybe_filter_out_long_prompts(dataframe)
        renderer = ConversationRenderer(self.tokenizer, self.apply_chat_template_kwargs)
        longest = self.max_prompt_length if self.filter_overlong_prompts else math.inf
        return dataframe.filter(
            lambda messages: self._length(renderer, messages) <= longest,
            input_columns=[self.prompt_key],
            num_proc=self.num_workers,
            desc=f"Prompts of at most {longest} tokens",
        )

    def _length(self, renderer: ConversationRenderer, messages: list[dict[str, Any]]) -> int:
        """Tokens of a prompt, up to where the model's turn begins."""
        try:
            text = renderer.prompt(messages, tools=self.tool_schemas)
        except ConversationError as error:
            shown = str(messages)[:SHOWN_CHARACTERS]
            raise DataError(f"{', '.join(self.original_data_files)}: the prompt {shown}...: {error}") from error
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _build_messages(self, example: dict[str, Any], key: str) -> list[dict[str, Any]]:
        plain = without_nulls if self.processor is not None else text_messages  # images and sounds are parts, too
        return super()._build_messages({**example, key: plain(example[key])}, key)
