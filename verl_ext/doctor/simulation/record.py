"""What tensors hold on one device while a step runs, by category, and what it computes and sends."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.distributed._tools.fake_collectives import CollectiveOp, collective_ops, sync_ops
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

ALIGNMENT = 512
"""Bytes to which torch's CUDA allocator rounds a tensor up (c10/cuda/CUDACachingAllocator.h, kMinBlockSize)."""


@dataclass
class Peak:
    """The most that a moment held."""

    bytes: int = 0
    categories: dict[str, int] = field(default_factory=dict)
    module: str = ""
    """The module that ran."""


class Recorder(TorchDispatchMode):
    """Counts storages of `device` from their first tensor to their last; one that is resized counts as it is then.

    A storage belongs to the category that was named (`category`) when it appeared, until `claim` says otherwise.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.flops = 0.0
        self.sent: Counter[str] = Counter()
        self.peaks: dict[str, Peak] = {}
        self.timeline: list[dict[str, int]] = []
        """Categories after each change of an operation, in their order; only while `moment` is named."""
        self.moment: str | None = None
        self.module = ""
        self.paused = False
        """Whether what runs stands for no tensor of this rank."""
        self._held: dict[int, tuple[weakref.ref, int, str]] = {}
        self._now: Counter[str] = Counter()
        self._category = "other"

    @contextmanager
    def category(self, name: str) -> Iterator[None]:
        """Storages that appear inside belong to it."""
        before, self._category = self._category, name
        try:
            yield
        finally:
            self._category = before

    def claim(self, tensors: Iterable[Tensor], category: str) -> None:
        """Count tensors under another category, whether they were seen before or not."""
        for tensor in tensors:
            if tensor.device.type != self.device.type:
                continue
            storage = tensor.untyped_storage()
            self._see(storage)
            self._move(id(storage), category)

    def claim_all(self, old: str, new: str) -> None:
        """What is left of a category belongs to another from now on."""
        for key in [key for key, (_, _, category) in self._held.items() if category == old]:
            self._move(key, new)

    def total(self) -> int:
        return sum(self._now.values())

    def now(self) -> dict[str, int]:
        return {name: size for name, size in self._now.items() if size}

    def __enter__(self):
        self._resize = torch.UntypedStorage.resize_
        recorder, resize = self, self._resize

        def resize_(storage, size):
            result = resize(storage, size)
            recorder._resized(storage)
            return result

        torch.UntypedStorage.resize_ = resize_
        return super().__enter__()

    def __exit__(self, *exception):
        torch.UntypedStorage.resize_ = self._resize
        return super().__exit__(*exception)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if any(kind.__name__ == "DTensor" for kind in types):
            return NotImplemented
        out = func(*args, **kwargs)
        if self.paused:
            return out
        if func in collective_ops:
            if func not in sync_ops:
                size = CollectiveOp.get_comm_tensor_size(func, out, args, kwargs)
                self.sent[func._overloadpacket.__name__] += size
        elif func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **kwargs, out_val=out)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.device.type == self.device.type:
                self._see(leaf.untyped_storage())
        self._note()
        return out

    def _see(self, storage) -> None:
        key = id(storage)
        if key in self._held:
            return
        size, category = _rounded(storage.nbytes()), self._category
        self._held[key] = (weakref.ref(storage, lambda _, key=key: self._gone(key)), size, category)
        self._now[category] += size

    def _resized(self, storage) -> None:
        key = id(storage)
        if key not in self._held:
            return  # of another device: a fake tensor's storage does not say which, but its tensor was not seen
        reference, size, category = self._held[key]
        new = _rounded(storage.nbytes())
        if size == 0:
            self._now[self._category] += new
            category = self._category
        else:
            self._now[category] += new - size
        self._held[key] = (reference, new, category)
        self._note()

    def _move(self, key: int, category: str) -> None:
        reference, size, old = self._held[key]
        self._now[old] -= size
        self._now[category] += size
        self._held[key] = (reference, size, category)

    def _gone(self, key: int) -> None:
        _, size, category = self._held.pop(key)
        self._now[category] -= size

    def _note(self) -> None:
        if self.moment is None:
            return
        peak = self.peaks.setdefault(self.moment, Peak())
        total = self.total()
        if total > peak.bytes:
            peak.bytes, peak.categories, peak.module = total, self.now(), self.module
        if not self.timeline or self.timeline[-1] != self._now:
            self.timeline.append(self.now())


def _rounded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
