"""The answers of a step in a file to read: what was asked, what came, and how it was graded."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import transfer_queue as tq
from transformers import PreTrainedTokenizerBase

FIELDS = ("prompts", "responses", "rm_scores", "reward_model", "data_source", "extra_fields")


def read_answers(keys: Sequence[str], partition_id: str, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """One row an output, in the order of the keys; an answer of several outputs has a row for each (`output`).

    Rows of training have their advantage.
    """
    is_training = partition_id == "train"
    fields = [*FIELDS, "advantages"] if is_training else list(FIELDS)
    data = tq.kv_batch_get(keys=list(keys), partition_id=partition_id, select_fields=fields)
    rows = []
    for i, key in enumerate(keys):
        uid, session, output = key.rsplit("_", 2)
        info = _plain(data["extra_fields"][i])["reward_extra_info"]
        advantage = {"advantage": _largest(data["advantages"][i])} if is_training else {}
        rows.append(
            {
                "uid": uid,
                "sample": int(session),
                "output": int(output),
                "data_source": _plain(data["data_source"][i]),
                "prompt": tokenizer.decode(data["prompts"][i], skip_special_tokens=True),
                "response": tokenizer.decode(data["responses"][i], skip_special_tokens=True),
                "response_tokens": len(data["responses"][i]),
                "ground_truth": _plain(data["reward_model"][i]).get("ground_truth"),
                **advantage,
                "reward": data["rm_scores"][i].sum().item(),
                **{name: value for name, value in info.items() if name != "score"},
            }
        )
    return rows


def _largest(advantages: torch.Tensor) -> float:
    """The advantage of an answer, which its learned tokens share."""
    return advantages[advantages.abs().argmax()].item()


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write JSON lines; the file is complete or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".incomplete")
    with partial.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, default=lambda value: value.tolist()) + "\n")
    partial.replace(path)


def _plain(value: Any) -> Any:
    return getattr(value, "data", value)
