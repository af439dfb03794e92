"""log pi_old of fixed data, kept beside the run, so that a run that continues does not ask its trained weights.

default_local_dir/old_log_probs/{train,val}.safetensors      one fp32 number a response token, in the data's order, and
                                                             the fingerprint of what they were computed from
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

FOLDER = "old_log_probs"

_BYTES_AT_A_TIME = 2**26


def fingerprint_of(parts: Mapping[str, object]) -> str:
    """One short name for several facts."""
    return hashlib.blake2b(repr(sorted(parts.items())).encode(), digest_size=16).hexdigest()


def fingerprint_of_weights(module: torch.nn.Module) -> str:
    """Changes with any bit of any parameter of a sharded model, and with the number of ranks; called by all together."""
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in module.named_parameters():
        local = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        digest.update(name.encode())
        for part in local.detach().reshape(-1).view(torch.uint8).split(_BYTES_AT_A_TIME):
            digest.update(part.cpu().numpy().tobytes())
    of_ranks: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(of_ranks, digest.hexdigest())
    return fingerprint_of(dict(enumerate(of_ranks)))


def load(folder: Path, name: str, fingerprint: str, count: int, device: str) -> Tensor | None:
    """The log-probabilities that an earlier part of this run kept; rank 0's disk decides for all.

    Args:
        folder: trainer.default_local_dir.
        name: "train" or "val".
        fingerprint: of what they have to be computed from.
        count: how many there have to be.
        device: on which ranks exchange tensors.

    Returns:
        (count,), fp32, on the CPU; None where there is no such file, or one of other weights or data.
    """
    values = _read(folder / FOLDER / f"{name}.safetensors", fingerprint, count) if dist.get_rank() == 0 else None
    found = [values is not None]
    dist.broadcast_object_list(found, src=0)
    if not found[0]:
        return None
    values = torch.empty(count) if values is None else values
    for part in _parts(values):
        received = part.to(device)
        dist.broadcast(received, src=0)
        part.copy_(received)
    return values


def store(folder: Path, name: str, fingerprint: str, values: Tensor) -> None:
    """Keep them; the file is complete or not there. Rank 0 writes."""
    if dist.get_rank() == 0:
        path = folder / FOLDER / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".incomplete")
        save_file({"old_log_probs": values}, partial, metadata={"fingerprint": fingerprint})
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    dist.barrier()


def add_over_ranks(values: Tensor, device: str) -> None:
    """Sum over all ranks, in place; of each entry one rank holds the value and the others hold 0."""
    for part in _parts(values):
        added = part.to(device)
        dist.all_reduce(added)
        part.copy_(added)


def _parts(values: Tensor) -> Iterator[Tensor]:
    yield from values.split(_BYTES_AT_A_TIME // values.element_size())


def _read(path: Path, fingerprint: str, count: int) -> Tensor | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("fingerprint") != fingerprint:
                return None
            values = file.get_tensor("old_log_probs")
    except SafetensorError:  # damaged since it was written: as if it were not there
        return None
    return values if values.shape == (count,) else None
