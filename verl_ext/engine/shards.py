"""Read the model of a sharded checkpoint whole, in one process: what each rank of verl's FSDP engine has saved."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import torch
from peft import PeftConfig
from torch import Tensor
from torch.distributed.tensor import DTensor

from verl_ext.engine.adapters import CONFIG_FOLDER, read_adapter_config
from verl_ext.engine.checkpoint_loading import only_known_types
from verl_ext.errors import UserError

_SHARD = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")


def has_shards(folder: Path) -> bool:
    """Whether a folder holds the shards of a model."""
    return any(_SHARD.fullmatch(path.name) for path in folder.glob("model_world_size_*.pt"))


def read_shards(folder: Path) -> dict[str, Tensor]:
    """The whole model by the names that it has in training, an adapter beside its base weights.

    Only tensors are built from the files: no code in them runs.

    Raises:
        UserError: a rank's file is missing or damaged, or the base weights of an adapter are not there.
    """
    paths = _paths_of_ranks(folder)
    with only_known_types():
        shards = [_load(path) for path in paths]
    weights = {name: _whole([shard[name] for shard in shards], name, folder) for name in shards[0]}
    if all(".lora_" in name for name in weights):
        raise UserError(
            f"{folder}: holds the LoRA adapter alone, without its base weights; export its lora_adapter folder"
        )
    return weights


def adapter_of_shards(folder: Path, weights: dict[str, Tensor]) -> PeftConfig | None:
    """The configuration of the adapter that is among the weights of a checkpoint; None if none is.

    Raises:
        UserError: it is not beside the shards, where every checkpoint of our trainers has it.
    """
    if not any(name.startswith("base_model.model.") for name in weights):
        return None
    described = folder / CONFIG_FOLDER
    if not (described / "adapter_config.json").is_file():
        raise UserError(
            f"{folder}: no {CONFIG_FOLDER}/adapter_config.json, which says how its LoRA adapter is scaled; put there "
            "the adapter_config.json of the adapter that was trained"
        )
    return read_adapter_config(described)


def _paths_of_ranks(folder: Path) -> list[Path]:
    found = {}
    for path in folder.glob("model_world_size_*.pt"):
        match = _SHARD.fullmatch(path.name)
        if match:
            found[int(match[1]), int(match[2])] = path
    sizes = {size for size, _ in found}
    if len(sizes) != 1:
        raise UserError(f"{folder}: shards of {len(sizes)} different numbers of ranks, expected those of one")
    (size,) = sizes
    missing = [rank for rank in range(size) if (size, rank) not in found]
    if missing:
        raise UserError(f"{folder}: no model_world_size_{size}_rank_{missing[0]}.pt; the checkpoint is not complete")
    return [found[size, rank] for rank in range(size)]


def _load(path: Path) -> dict[str, Tensor]:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError) as error:
        raise UserError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}") from error


def _whole(parts: list[Tensor], name: str, folder: Path) -> Tensor:
    """One tensor of all ranks' parts: sharded over the last dimension of the mesh, copies over the first."""
    first = parts[0]
    if not isinstance(first, DTensor):
        return first.clone()
    placement = first.placements[-1]
    if placement.is_replicate():
        return first._local_tensor.clone()
    if not placement.is_shard() or any(not other.is_replicate() for other in first.placements[:-1]):
        raise UserError(f"{folder}: {name} is placed as {first.placements}, expected shards of one dimension")
    ranks = first.device_mesh.mesh.shape[-1]
    whole = torch.cat([part._local_tensor for part in parts[:ranks]], dim=placement.dim)
    if whole.shape != first.shape:
        raise UserError(f"{folder}: the shards of {name} make {tuple(whole.shape)}, expected {tuple(first.shape)}")
    return whole
