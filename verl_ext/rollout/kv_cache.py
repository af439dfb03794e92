"""Keys and values of a batch whose requests come and go: one slot a request, each filled to its own length."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

CAPACITY_STEP = 64
"""Slots grow by at least this many tokens."""


class SlotCache(Cache):
    """Cache of the running requests, in slots 0 to `len(lengths)` - 1 without gaps.

    A slot holds its request's tokens from column 0 on, however long its neighbours are: nothing is padded in front, so
    that a request may join or leave without moving the others. Memory grows with what is in use.

    Args:
        layers: of the model.
    """

    def __init__(self, layers: int) -> None:
        self.lengths: list[int] = []
        super().__init__(layers=[SlotLayer(self) for _ in range(layers)])
        self.rows = torch.empty(0, dtype=torch.long)
        self.columns = torch.empty(0, dtype=torch.long)
        self.width = 0

    def append(self, prompt: DynamicCache, row: int, start: int) -> int:
        """Copy a prefilled prompt, columns `start` on of `row`, into a new slot; returns the slot."""
        slot = len(self.lengths)
        length = prompt.get_seq_length() - start
        for layer, filled in zip(self.layers, prompt.layers, strict=True):
            layer.write(slot, filled.keys[row, :, start:], filled.values[row, :, start:])
        self.lengths.append(length)
        return slot

    def remove(self, slot: int) -> None:
        """Free a slot; the last one moves into its place."""
        last = len(self.lengths) - 1
        if slot != last:
            length = self.lengths[last]
            for layer in self.layers:
                layer.keys[slot, :, :length] = layer.keys[last, :, :length]
                layer.values[slot, :, :length] = layer.values[last, :, :length]
            self.lengths[slot] = length
        self.lengths.pop()

    def next_column(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Make room for one more token in every slot.

        Returns:
            Its position in each slot, shape (slots, 1), and which columns it may see, shape (slots, 1, 1, width), bool.
        """
        self.rows = torch.arange(len(self.lengths), device=device)
        self.columns = torch.tensor(self.lengths, device=device)
        self.lengths = [length + 1 for length in self.lengths]
        self.width = max(self.lengths)
        visible = torch.arange(self.width, device=device) <= self.columns.unsqueeze(-1)
        return self.columns.unsqueeze(-1), visible[:, None, None, :]

    def clear(self) -> None:
        """Free every slot and its memory."""
        self.lengths = []
        for layer in self.layers:
            layer.keys = layer.values = None


class SlotLayer(CacheLayerMixin):
    """One layer's keys and values, each of shape (slots, key/value heads, capacity, head size)."""

    is_sliding = False

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self.cache = cache

    def write(self, slot: int, keys: Tensor, values: Tensor) -> None:
        """Fill a slot; keys and values of shape (key/value heads, length, head size)."""
        heads, length, size = keys.shape
        self._reserve(slot + 1, length, heads, size, keys)
        self.keys[slot, :, :length] = keys
        self.values[slot, :, :length] = values

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Add one token to every slot; what the model calls. Returns keys and values of all slots up to `width`."""
        slots, heads, _, size = key_states.shape
        cache = self.cache
        self._reserve(slots, cache.width, heads, size, key_states)
        self.keys[cache.rows, :, cache.columns] = key_states[:, :, 0]
        self.values[cache.rows, :, cache.columns] = value_states[:, :, 0]
        return self.keys[:slots, :, : cache.width], self.values[:slots, :, : cache.width]

    def _reserve(self, slots: int, length: int, heads: int, size: int, like: Tensor) -> None:
        has_slots, has_length = (0, 0) if self.keys is None else (self.keys.shape[0], self.keys.shape[2])
        if slots <= has_slots and length <= has_length:
            return
        if slots > has_slots:
            has_slots = max(slots, min(2 * has_slots, has_slots + 16))
        if length > has_length:
            has_length = max(length, has_length * 5 // 4)
            has_length = -(-has_length // CAPACITY_STEP) * CAPACITY_STEP
        for name in ("keys", "values"):
            old = getattr(self, name)
            # Zeros, not garbage: masked columns are multiplied by a probability of zero, and 0 * NaN is NaN.
            new = like.new_zeros(has_slots, heads, has_length, size)
            if old is not None:
                new[: old.shape[0], :, : old.shape[2]] = old
            setattr(self, name, new)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Slots are made when they are written to."""

    def get_seq_length(self) -> int:
        return self.cache.width

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.width, 0

    def get_max_cache_shape(self) -> int:
        return -1
