"""Groups that wait for an update, as JSON lines: what a checkpoint keeps of the replay buffer.

One line an answer: its key and tag in TransferQueue, its tensors as lists with their dtype, and everything else as
JSON. Plain text, so that reading a checkpoint runs no code.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
import transfer_queue as tq
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

PARTITION = "train"


def waiting_groups() -> tuple[list[str], list[str]]:
    """Names of the prompts whose groups are complete, and of those still in generation or grading."""
    tags = (tq.kv_list(PARTITION) or {}).get(PARTITION, {})
    prompts = {key: tag["status"] for key, tag in tags.items() if tag.get("is_prompt", False)}
    done = sorted(uid for uid, status in prompts.items() if status == "finished")
    return done, sorted(uid for uid, status in prompts.items() if status in ("pending", "running"))


def get_groups(uids: Iterable[str]) -> Iterator[str]:
    """A line for each answer to these prompts, in the order of their keys."""
    wanted = set(uids)
    tags = (tq.kv_list(PARTITION) or {}).get(PARTITION, {})
    keys = sorted(key for key, tag in tags.items() if not tag.get("is_prompt", False) and key.split("_")[0] in wanted)
    if not keys:
        return
    rows = tq.kv_batch_get(keys=keys, partition_id=PARTITION)
    for i, key in enumerate(keys):
        yield json.dumps({"key": key, "tag": tags[key], **_encode(rows[i])}, default=_plain) + "\n"


def put_groups(lines: Iterable[str]) -> int:
    """Put answers back, and mark their prompts as complete; returns the number of groups."""
    entries = [json.loads(line) for line in lines]
    if not entries:
        return 0
    tq.kv_batch_put(
        keys=[entry["key"] for entry in entries],
        partition_id=PARTITION,
        fields=list_of_dict_to_tensordict([_decode(entry) for entry in entries]),
        tags=[entry["tag"] for entry in entries],
    )
    steps = {entry["key"].split("_")[0]: entry["tag"]["global_steps"] for entry in entries}
    tq.kv_batch_put(
        keys=list(steps),
        partition_id=PARTITION,
        tags=[{"is_prompt": True, "status": "finished", "global_steps": step} for step in steps.values()],
    )
    return len(steps)


def _encode(row: Any) -> dict[str, dict[str, Any]]:
    tensors, values = {}, {}
    for name in list(row.keys()):  # a TensorDict iterates over its rows
        value = row[name]
        if isinstance(value, torch.Tensor):
            tensors[name] = {"dtype": str(value.dtype).removeprefix("torch."), "values": value.tolist()}
        else:
            values[name] = getattr(value, "data", value)
    return {"tensors": tensors, "values": values}


def _decode(entry: dict[str, Any]) -> dict[str, Any]:
    tensors = {
        name: torch.tensor(tensor["values"], dtype=getattr(torch, tensor["dtype"]))
        for name, tensor in entry["tensors"].items()
    }
    return {**tensors, **entry["values"]}


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be kept in a checkpoint")
