"""Weights on their way from a trainer to a generation server: packed into buckets, and written into its model."""

from __future__ import annotations

import warnings
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from verl.workers.rollout.utils import ensure_async_iterator


@dataclass(frozen=True)
class PackedTensor:
    """A tensor as bytes of its own, which Ray's object store takes and gives without pickling them."""

    name: str
    dtype: torch.dtype
    shape: torch.Size
    data: np.ndarray
    """uint8, flat."""

    @classmethod
    def pack(cls, name: str, tensor: Tensor, dtype: torch.dtype | None = None) -> PackedTensor:
        """Copy a tensor, to the processor and, if it is of a float type, to `dtype`.

        A copy in any case: who sends weights may use the same memory for the next ones.
        """
        target = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
        copied = tensor.detach().to("cpu", target, copy=True, memory_format=torch.contiguous_format)
        return cls(name, target, tensor.shape, copied.view(-1).view(torch.uint8).numpy())

    def unpack(self) -> Tensor:
        """The tensor, over the same memory, which is not to be written to."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that memory in the object store is read-only: nobody writes
            return torch.from_numpy(self.data).view(self.dtype).view(self.shape)


Bucket = list[PackedTensor]


async def pack_buckets(
    weights: Iterable[tuple[str, Tensor]], *, bucket_bytes: int, dtype: torch.dtype | None = None
) -> AsyncIterator[Bucket]:
    """Buckets of at most `bucket_bytes`; a larger tensor has one of its own.

    Args:
        weights: pairs of name and tensor; an ordinary or an asynchronous iterable.
        bucket_bytes: of the packed tensors.
        dtype: that tensors of a float type are sent in; None: their own.
    """
    bucket: Bucket = []
    size = 0
    async for name, tensor in ensure_async_iterator(weights):
        packed = PackedTensor.pack(name, tensor, dtype)
        if bucket and size + packed.data.nbytes > bucket_bytes:
            yield bucket
            bucket, size = [], 0
        bucket.append(packed)
        size += packed.data.nbytes
    if bucket:
        yield bucket


class WeightMismatchError(RuntimeError):
    """Weights that are not those of the model: the message names the tensor."""


class ModelWeights:
    """Writes an update into a model, all of it or an error; and gives the memory back while nobody generates.

    Args:
        model: whose parameters and buffers are written.
    """

    def __init__(self, model: nn.Module) -> None:
        # With every name that a tied tensor has.
        self._targets: dict[str, Tensor] = model.state_dict(keep_vars=True)
        self._shapes = {name: tensor.shape for name, tensor in self._targets.items()}
        self._missing: dict[int, str] = {}

    def begin(self) -> None:
        """Expect every tensor of the model, each once or more."""
        for name, tensor in self._targets.items():
            if tensor.shape != self._shapes[name]:
                tensor.data = torch.empty(self._shapes[name], dtype=tensor.dtype, device=tensor.device)
        self._missing = {id(tensor): name for name, tensor in self._targets.items()}

    @torch.no_grad()
    def load(self, bucket: Sequence[PackedTensor]) -> None:
        """Write a bucket.

        Raises:
            WeightMismatchError: a name that the model has not, or another shape.
        """
        for packed in bucket:
            target = self._targets.get(packed.name)
            if target is None:
                raise WeightMismatchError(f"{packed.name}: the model that generates has no such weight")
            if target.shape != packed.shape:
                raise WeightMismatchError(
                    f"{packed.name}: got shape {tuple(packed.shape)}, the model that generates has "
                    f"{tuple(target.shape)}"
                )
            target.copy_(packed.unpack())
            self._missing.pop(id(target), None)

    def finish(self) -> None:
        """End the update.

        Raises:
            WeightMismatchError: weights of the model that have not come.
        """
        if self._missing:
            names = list(self._missing.values())
            raise WeightMismatchError(f"{len(names)} weights have not come, such as {names[0]}")

    def discard(self) -> None:
        """Give the memory back; the next update makes it anew."""
        for tensor in self._targets.values():
            tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
