"""What the files of a launch hold: are they there, have they the columns, how long are their rows."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from omegaconf import DictConfig, OmegaConf

from verl_ext.data.conversation import ConversationRenderer
from verl_ext.data.messages import ConversationError
from verl_ext.data.reading import iterate_rows, require_files, row_error
from verl_ext.doctor.composition import PLACEHOLDER, MadeBy
from verl_ext.doctor.findings import FIXES, Finding, of_error
from verl_ext.doctor.launch import Trainer
from verl_ext.errors import ConfigError, UserError

SAMPLE_ROWS = 1000
NO_LIMIT = 1 << 40

FILE_KEYS: dict[Trainer, tuple[str, str]] = {
    "dft": ("data.train_files", "data.val_files"),
    "nft_offline": ("data.rollouts", "data.val_rollouts"),
    "nft": ("data.train_files", "data.val_files"),
}


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """The training data of a launch, as far as it was looked at."""

    rows: int
    """In all files together; of offline NFT, prompts."""
    sampled: int
    """Of which so many were looked at."""
    usable_share: float
    """Of the sampled ones that the trainer would keep."""
    lengths: np.ndarray
    """Tokens of each kept sequence (online: of each prompt), before anything is cut."""
    learned: np.ndarray
    """Tokens with loss of each kept sequence after cutting; empty online."""
    sequences_per_row: float = 1.0
    """Responses of a prompt (offline NFT)."""
    counted: bool
    """Whether a tokenizer counted; otherwise lengths are guessed from characters."""

    @property
    def usable_rows(self) -> int:
        return int(self.rows * self.usable_share)


def existing_files(config: DictConfig, trainer: Trainer, made_by: MadeBy) -> tuple[dict[str, list[str]], list[Finding]]:
    """Files of each key that are there; the others are made by the script, or missing."""
    files: dict[str, list[str]] = {}
    findings: list[Finding] = []
    for key in FILE_KEYS[trainer]:
        value = OmegaConf.select(config, key)
        given = [] if value is None or value == PLACEHOLDER else [value] if isinstance(value, str) else list(value)
        files[key] = []
        for path in map(str, given):
            path = str(Path(path).expanduser())
            maker = None if Path(path).exists() else made_by(path)
            if maker:
                findings.append(Finding("made-by-script", "info", key, f"{path} is made by the script: {maker}", ""))
                continue
            try:
                require_files(key, [path])
                files[key].append(path)
            except UserError as error:
                findings.append(replace(of_error(error, default="data-files"), fix=FIXES["data-files"]))
    return files, findings


def examine_sft(config: DictConfig, files: Sequence[str], tokenizer: Any, *, key: str, counted: bool) -> DataFacts:
    """Read and tokenise the first rows as the DFT trainer does.

    Raises:
        UserError: what the trainer would say of the files.
    """
    from verl_ext.data.sft_dataset import SFTDataset
    from verl_ext.trainer.run.launch import sft_data_config

    columns = sft_data_config(config.data)
    limit, from_the_left = columns.max_length, columns.truncation == "left"
    dataset = SFTDataset(
        files, tokenizer, replace(columns, max_length=NO_LIMIT, truncation="right"), key=key, max_samples=SAMPLE_ROWS
    )
    masks = [dataset[row]["loss_mask"].numpy() for row in range(len(dataset))]
    cut = slice(-limit, None) if from_the_left else slice(None, limit)
    learned = np.array([int(mask[cut].sum()) for mask in masks])
    return DataFacts(
        rows=count_rows(files),
        sampled=dataset.counts["rows"],
        usable_share=float((learned > 0).sum()) / dataset.counts["rows"],
        lengths=dataset.lengths(),
        learned=learned,
        counted=counted,
    )


def examine_rollouts(config: DictConfig, files: Sequence[str], tokenizer: Any, *, key: str, counted: bool) -> DataFacts:
    """Read and tokenise the first groups as the offline NFT trainer does.

    Raises:
        UserError: what the trainer would say of the files.
    """
    from verl_ext.data.rollout_dataset import RolloutDataset
    from verl_ext.trainer.supervised.nft_run import rollout_data_config

    columns = rollout_data_config(config.data)
    wide = replace(columns, max_length=NO_LIMIT, truncation="right")
    dataset = RolloutDataset(files, tokenizer, wide, key=key, max_samples=SAMPLE_ROWS)
    lengths = np.array([dataset.length_of(row) for row in range(dataset.num_rows)])
    responses = dataset.response_lengths()
    learned = np.maximum(0, np.minimum(responses, columns.max_length - (lengths - responses)))
    return DataFacts(
        rows=count_rows(files),
        sampled=dataset.counts["prompts"],
        usable_share=len(dataset) / dataset.counts["prompts"],
        lengths=lengths,
        learned=learned,
        sequences_per_row=dataset.num_rows / len(dataset),
        counted=counted,
    )


def examine_prompts(config: DictConfig, files: Sequence[str], tokenizer: Any, *, counted: bool) -> DataFacts:
    """Render and tokenise the first prompts as online training does.

    Raises:
        UserError: the chat template refuses a prompt.
    """
    data = config.data
    renderer = ConversationRenderer(tokenizer, data.apply_chat_template_kwargs or {})
    texts = []
    for path, row, values in islice(_rows(files), SAMPLE_ROWS):
        try:
            texts.append(renderer.prompt(values[data.prompt_key]))
        except ConversationError as error:
            raise row_error(path, row, str(error)) from error
    lengths = np.array([len(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]])
    kept = lengths <= data.max_prompt_length if data.filter_overlong_prompts else np.ones(len(lengths), dtype=bool)
    return DataFacts(
        rows=count_rows(files),
        sampled=len(texts),
        usable_share=float(kept.mean()),
        lengths=lengths,
        learned=np.array([], dtype=int),
        counted=counted,
    )


def check_online_rows(config: DictConfig, files: dict[str, list[str]]) -> list[Finding]:
    """Columns and graders of online training's files, by the trainer's own check on their first rows."""
    from verl_ext.reward.sources import check_data_files
    from verl_ext.trainer.online.checks import REWARD_MANAGER, check_files

    findings = []
    judge = OmegaConf.select(config, "reward.reward_kwargs.judge") is not None
    scorers = OmegaConf.select(config, "reward.reward_kwargs.evaluating_scorers") or ()
    graded_here = config.reward.reward_manager.name == REWARD_MANAGER
    for key, paths in files.items():
        if not paths:
            continue
        looked_at = copy.deepcopy(config)
        looked_at.data.train_files, looked_at.data.val_files = paths, None
        try:
            check_files(looked_at, max_rows=SAMPLE_ROWS)
            if graded_here:  # the column of sources alone is read to its end
                check_data_files([paths], column=config.data.reward_fn_key, has_judge=judge, evaluating_scorers=scorers)
        except UserError as error:
            finding = of_error(error, default=_row_code(error), key=key)
            findings.append(finding if isinstance(error, ConfigError) else replace(finding, key=key))
    return findings


def _row_code(error: UserError) -> str:
    return "data-columns" if "column" in str(error) or "reward_model" in str(error) else "data-rows"


def repeated_share(config: DictConfig, trainer: Trainer, files: Sequence[str]) -> float:
    """Share of the first rows that are an earlier row again."""
    keys = ("prompt_key", "response_key") if trainer == "dft" else ("prompt_key",)
    if trainer == "dft" and config.data.prompt_key is None:
        keys = ("messages_key",)
    columns = [config.data[key] for key in keys]
    seen, rows = set(), 0
    for _, _, values in islice(_rows(files), SAMPLE_ROWS):
        rows += 1
        seen.add(repr([values.get(column) for column in columns]))
    return 1 - len(seen) / rows if rows else 0.0


def count_rows(files: Sequence[str]) -> int:
    """Rows of all files together, without reading their columns."""
    total = 0
    for path in files:
        if path.endswith(".parquet"):
            total += pq.read_metadata(path).num_rows
        else:
            with open(path, "rb") as file:
                total += sum(1 for line in file if line.strip())
    return total


def _rows(files: Sequence[str]) -> Iterator[tuple[str, int, dict[str, Any]]]:
    for path in files:
        for row, values in enumerate(iterate_rows(path)):
            yield path, row, values
