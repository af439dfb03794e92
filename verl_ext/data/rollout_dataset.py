"""Graded generations in groups, tokenised once: the data of offline NFT."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from verl_ext.data.conversation import ConversationRenderer
from verl_ext.data.messages import ConversationError
from verl_ext.data.reading import iterate_rows, require_files, row_error
from verl_ext.data.rollout_rows import Rollout, RolloutDataConfig, RolloutReader
from verl_ext.errors import DataError


class RolloutDataset:
    """Prompts that have both right and wrong responses; `len` counts them.

    Groups that are all right or all wrong are left out and counted: their loss is zero (arXiv 2505.18116, Alg. 1 keeps
    0 < r_q < 1, for RFT as well). r_q is the share of correct ones among all responses of a prompt in the file.

    Args:
        files: parquet or JSON-lines files.
        tokenizer: with a chat template and an EOS token.
        config: columns, length.
        key: configuration key of `files`, for error messages.
        max_samples: read this many prompts at most; -1 for all.

    Raises:
        DataError: a file, column or row that cannot be used, named; or no prompt is left.
    """

    def __init__(
        self,
        files: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        config: RolloutDataConfig,
        *,
        key: str = "data.rollouts",
        max_samples: int = -1,
    ) -> None:
        self.files = list(files)
        self.config = config
        self.counts: Counter[str] = Counter()
        self.correct_rates: list[float] = []
        self._tokenizer = tokenizer
        self._renderer = ConversationRenderer(tokenizer, config.apply_chat_template_kwargs)
        self._input_ids: list[np.ndarray] = []
        self._prompt_lengths: list[int] = []
        self._correct: list[bool] = []
        self._groups: list[int] = []
        self._first_rows: list[int] = []
        self._sources: list[tuple[int, int]] = []
        given: list[np.ndarray] = []

        require_files(key, self.files)
        reader = RolloutReader(self.files, config, len(tokenizer))
        for file, path in enumerate(self.files):
            for row, values in enumerate(iterate_rows(path)):
                if 0 <= max_samples <= self.counts["prompts"]:
                    break
                self.counts["prompts"] += 1
                rollout = reader.read(path, row, values)
                if self._teaches(rollout):
                    self._append(file, row, rollout, given)
        self._check_any_left(key)
        self.gives_old_log_probs = "old_log_probs" in reader.columns
        """Whether the files have them; else they are to be set."""
        self.old_log_probs: np.ndarray | None = np.concatenate(given) if self.gives_old_log_probs else None
        """log pi_old of all response tokens, row after row, fp32, (tokens of all responses,)."""
        self._first_response_tokens = np.cumsum([0, *self.response_lengths()])

    def __len__(self) -> int:
        return len(self._first_rows)

    @property
    def num_rows(self) -> int:
        """Responses of all groups together; rows count them."""
        return len(self._input_ids)

    def rows_of(self, group: int) -> range:
        """Rows of a group's responses."""
        last = self._first_rows[group + 1] if group + 1 < len(self) else self.num_rows
        return range(self._first_rows[group], last)

    def row(self, row: int) -> dict[str, Tensor]:
        """A response after its prompt.

        Returns:
            input_ids, position_ids, loss_mask: int64, (tokens,); the mask is 1 on the response.
            old_log_probs: fp32, (tokens,); entry t is of token t, 0 on the prompt and where none are known yet.
            correct, correct_rate: fp32, (1,).
        """
        input_ids = torch.from_numpy(self._input_ids[row].astype(np.int64))
        start = self._prompt_lengths[row]
        mask = torch.zeros_like(input_ids)
        mask[start:] = 1
        old_log_probs = torch.zeros(len(input_ids))
        if self.old_log_probs is not None:
            first, last = self._first_response_tokens[row : row + 2]
            old_log_probs[start:] = torch.from_numpy(self.old_log_probs[first:last])
        return {
            "input_ids": input_ids,
            "position_ids": torch.arange(len(input_ids)),
            "loss_mask": mask,
            "old_log_probs": old_log_probs,
            "correct": torch.tensor([float(self._correct[row])]),
            "correct_rate": torch.tensor([self.correct_rates[self._groups[row]]]),
        }

    def filler(self) -> dict[str, Tensor]:
        """A row of one token that carries no loss."""
        return {
            "input_ids": torch.from_numpy(self._input_ids[0][:1].astype(np.int64)),
            "position_ids": torch.zeros(1, dtype=torch.int64),
            "loss_mask": torch.zeros(1, dtype=torch.int64),
            "old_log_probs": torch.zeros(1),
            "correct": torch.zeros(1),
            "correct_rate": torch.zeros(1),
        }

    def correct_of(self, row: int) -> bool:
        """Whether the response of a row is correct."""
        return self._correct[row]

    def length_of(self, row: int) -> int:
        """Tokens of a row, prompt and response together."""
        return len(self._input_ids[row])

    def response_lengths(self) -> np.ndarray:
        """Response tokens of each row."""
        return np.array([len(i) - start for i, start in zip(self._input_ids, self._prompt_lengths, strict=True)])

    def row_name(self, group: int) -> str:
        """`file:row` of a group, as errors name it."""
        file, row = self._sources[group]
        return f"{Path(self.files[file]).name}:{row}"

    def fingerprint(self) -> str:
        """Changes with any token, grade, group or given log-probability."""
        digest = hashlib.blake2b(digest_size=16)
        for ids in self._input_ids:
            digest.update(ids.tobytes())
        for numbers in (self._prompt_lengths, self._correct, self._first_rows, self.correct_rates):
            digest.update(np.array(numbers, dtype=np.float64).tobytes())
        if self.gives_old_log_probs:
            digest.update(self.old_log_probs.tobytes())
        return digest.hexdigest()

    def summary(self) -> str:
        """One line for the log: groups, responses, tokens, and what was left out."""
        counts, lengths = self.counts, [len(ids) for ids in self._input_ids]
        old = f"column {self.config.old_log_probs_key!r}" if self.gives_old_log_probs else "the starting model"
        return (
            f"{len(self)} of {counts['prompts']} prompts have right and wrong responses ({counts['all right']} all "
            f"right, {counts['all wrong']} all wrong: left out, they teach nothing), {self.num_rows} responses, "
            f"{sum(self._correct)} right, {sum(lengths)} tokens ({self.response_lengths().sum()} learned), longest "
            f"{max(lengths)}; {counts['truncated']} shortened to data.max_length={self.config.max_length}, "
            f"{counts['dropped']} dropped because their response was cut away; old log-probs of {old}"
        )

    def _teaches(self, rollout: Rollout) -> bool:
        if 0 < rollout.correct_rate < 1:
            return True
        self.counts["all right" if rollout.correct_rate else "all wrong"] += 1
        return False

    def _append(self, file: int, row: int, rollout: Rollout, given: list[np.ndarray]) -> None:
        first = self.num_rows
        limit = self.config.max_length
        for i, (prompt, response) in enumerate(self._token_ids(file, row, rollout)):
            if len(prompt) + len(response) > limit:
                if self.config.truncation == "error":
                    length = len(prompt) + len(response)
                    raise row_error(
                        self.files[file], row, f"response {i}: {length} tokens, more than data.max_length={limit}"
                    )
                self.counts["truncated"] += 1
                response = response[: max(limit - len(prompt), 0)]
            if not response:
                self.counts["dropped"] += 1
                continue
            self._input_ids.append(np.array(prompt + response, dtype=np.int32))
            self._prompt_lengths.append(len(prompt))
            self._correct.append(rollout.correct[i])
            self._groups.append(len(self._first_rows))
            if rollout.old_log_probs is not None:
                given.append(np.array(rollout.old_log_probs[i][: len(response)], dtype=np.float32))
        if self.num_rows == first:
            self.counts["cut away"] += 1
            return
        self._first_rows.append(first)
        self.correct_rates.append(rollout.correct_rate)
        self._sources.append((file, row))

    def _token_ids(self, file: int, row: int, rollout: Rollout) -> list[tuple[list[int], list[int]]]:
        """(prompt, response) of each response of a row."""
        if rollout.prompt_ids is not None and rollout.response_ids is not None:
            return [(rollout.prompt_ids, ids) for ids in rollout.response_ids]
        # Without a text the response does not begin with <think>, and the prompt is as generation saw it.
        responses = rollout.responses if rollout.response_ids is None else [""] * len(rollout.correct)
        try:
            pieces = [
                self._renderer.prompt_and_response(rollout.prompt or "", response, ended=ended)
                for response, ended in zip(responses, rollout.ended, strict=True)
            ]
        except ConversationError as error:
            raise row_error(self.files[file], row, str(error)) from error
        texts = list(dict.fromkeys(piece.text for pair in pieces for piece in pair))
        ids_of = dict(zip(texts, self._tokenizer(texts, add_special_tokens=False)["input_ids"], strict=True))
        return [
            (
                ids_of[opening.text] if rollout.prompt_ids is None else rollout.prompt_ids,
                ids_of[response.text] if rollout.response_ids is None else rollout.response_ids[i],
            )
            for i, (opening, response) in enumerate(pieces)
        ]

    def _check_any_left(self, key: str) -> None:
        if not self.counts["prompts"]:
            raise DataError(f"{key}: no rows in {', '.join(self.files)}")
        if not self._first_rows:
            raise DataError(
                f"{key}: none of the {self.counts['prompts']} prompts has both right and wrong responses "
                f"({self.counts['all right']} all right, {self.counts['all wrong']} all wrong, {self.counts['cut away']} "
                f"cut away at data.max_length={self.config.max_length}), so there is nothing to learn"
            )
