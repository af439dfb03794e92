"""Read checkpoints without running code from them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, TensorMeta
from torch.distributed.tensor.placement_types import Partial

# Sharded parameters, and numpy's state in the random-number state that verl saves.
CHECKPOINT_TYPES = [
    DTensor,
    DTensorSpec,
    TensorMeta,
    DeviceMesh,
    Shard,
    Replicate,
    Partial,
    np._core.multiarray._reconstruct,
    np.ndarray,
    np.dtype,
    np.dtypes.UInt32DType,
]
FORCE_VARIABLE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@contextmanager
def only_known_types() -> Iterator[None]:
    """Within it `torch.load` builds tensors and the types above, and nothing else.

    verl reads its checkpoints with `weights_only=False`; torch's own variable overrides that.
    """
    before = os.environ.get(FORCE_VARIABLE)
    os.environ[FORCE_VARIABLE] = "1"
    try:
        with torch.serialization.safe_globals(CHECKPOINT_TYPES):
            yield
    finally:
        if before is None:
            del os.environ[FORCE_VARIABLE]
        else:
            os.environ[FORCE_VARIABLE] = before
