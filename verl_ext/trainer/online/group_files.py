"""Groups that wait for an update, as JSON lines: what a checkpoint keeps of the replay buffer.

One line an answer: its key and tag in TransferQueue, its tensors as base64 with dtype and shape, and everything else
as JSON. Text, so that reading a checkpoint runs no code; base64, because numbers one by one take minutes for the tens
of millions of tokens of a large step, and whoever has asked the run to stop does not wait.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import transfer_queue as tq
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

PARTITION = "train"


def waiting_groups() -> tuple[list[str], list[str]]:
    """Names of the prompts whose groups are complete, and of those that are under way or have failed."""
    tags = (tq.kv_list(PARTITION) or {}).get(PARTITION, {})
    prompts = {key: tag["status"] for key, tag in tags.items() if tag.get("is_prompt", False)}
    done = sorted(uid for uid, status in prompts.items() if status == "finished")
    return done, sorted(uid for uid, status in prompts.items() if status != "finished")


def get_groups(uids: Iterable[str]) -> Iterator[str]:
    """A line for each answer to these prompts, in the order of their keys."""
    wanted = set(uids)
    tags = (tq.kv_list(PARTITION) or {}).get(PARTITION, {})
    keys = sorted(key for key, tag in tags.items() if not tag.get("is_prompt", False) and key.split("_")[0] in wanted)
    yield from get_rows(keys, PARTITION)


def get_rows(keys: Sequence[str], partition_id: str) -> Iterator[str]:
    """A line for each of these answers, in this order."""
    if not keys:
        return
    tags = (tq.kv_list(partition_id) or {})[partition_id]
    rows = tq.kv_batch_get(keys=list(keys), partition_id=partition_id)
    for i, key in enumerate(keys):
        yield json.dumps({"key": key, "tag": tags[key], **_encode(rows[i])}, default=_plain) + "\n"


def put_groups(lines: Iterable[str]) -> int:
    """Put answers back, and mark their prompts as complete; returns the number of groups."""
    entries = put_rows(lines, PARTITION)
    if not entries:
        return 0
    steps = {entry["key"].split("_")[0]: entry["tag"]["global_steps"] for entry in entries}
    tq.kv_batch_put(
        keys=list(steps),
        partition_id=PARTITION,
        tags=[{"is_prompt": True, "status": "finished", "global_steps": step} for step in steps.values()],
    )
    return len(steps)


def put_rows(lines: Iterable[str], partition_id: str) -> list[dict[str, Any]]:
    """Put answers back under their keys; returns what the lines say."""
    entries = [json.loads(line) for line in lines]
    if entries:
        tq.kv_batch_put(
            keys=[entry["key"] for entry in entries],
            partition_id=partition_id,
            fields=list_of_dict_to_tensordict([_decode(entry) for entry in entries]),
            tags=[entry["tag"] for entry in entries],
        )
    return entries


def _encode(row: Any) -> dict[str, dict[str, Any]]:
    tensors, values = {}, {}
    for name in list(row.keys()):  # a TensorDict iterates over its rows
        value = row[name]
        if isinstance(value, torch.Tensor):
            tensors[name] = {
                "dtype": str(value.dtype).removeprefix("torch."),
                "shape": list(value.shape),
                "base64": base64.b64encode(value.reshape(-1).view(torch.uint8).numpy()).decode(),
            }
        else:
            values[name] = getattr(value, "data", value)
    return {"tensors": tensors, "values": values}


def _decode(entry: dict[str, Any]) -> dict[str, Any]:
    return {**{name: _tensor(**tensor) for name, tensor in entry["tensors"].items()}, **entry["values"]}


def _tensor(dtype: str, shape: list[int] | None = None, values: Any = None, **encoded: str) -> torch.Tensor:
    """From base64, or from the plain `values` of checkpoints of before."""
    if shape is None:
        return torch.tensor(values, dtype=getattr(torch, dtype))
    data = bytearray(base64.b64decode(encoded["base64"]))
    if not data:
        return torch.empty(shape, dtype=getattr(torch, dtype))
    return torch.frombuffer(data, dtype=getattr(torch, dtype)).reshape(shape)


def _plain(value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} cannot be kept in a checkpoint")
