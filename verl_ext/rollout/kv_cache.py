"""Keys and values of requests that come and go: one slot a request, each filled to its own length."""

from __future__ import annotations

from torch import Tensor

CAPACITY_STEP = 64
SLOT_STEP = 16
"""Memory grows by a quarter or by this many columns or slots, whichever is more, and never beyond what is in use."""


class LayerSlots:
    """One layer's keys and values, each of shape (slots, key/value heads, capacity, head size), in the model's dtype."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def reserve(self, slots: int, length: int, like: Tensor) -> None:
        """Make room for so many slots of so many columns; `like` has shape (..., key/value heads, *, head size)."""
        has_slots, has_length = (0, 0) if self.keys is None else (self.keys.shape[0], self.keys.shape[2])
        if slots <= has_slots and length <= has_length:
            return
        if slots > has_slots:
            has_slots = max(slots, min(has_slots * 2, has_slots + SLOT_STEP))
        if length > has_length:
            wanted = max(length, has_length * 5 // 4)
            has_length = -(-wanted // CAPACITY_STEP) * CAPACITY_STEP
        shape = (has_slots, like.shape[-3], has_length, like.shape[-1])
        self.keys, self.values = _grown(self.keys, shape, like), _grown(self.values, shape, like)


class SlotCache:
    """Slots 0 to n - 1 without a gap; slot s holds its request's tokens in columns 0 to its length.

    Nothing is padded in front, so that a request joins or leaves without moving the others.

    Args:
        layers: of the model.
    """

    def __init__(self, layers: int) -> None:
        self.layers = [LayerSlots() for _ in range(layers)]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` columns of a slot into another, which need not exist yet."""
        for layer in self.layers:
            layer.reserve(target + 1, length, layer.keys)
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]

    def clear(self) -> None:
        """Give the memory back."""
        for layer in self.layers:
            layer.keys = layer.values = None


def _grown(old: Tensor | None, shape: tuple[int, ...], like: Tensor) -> Tensor:
    # Zeros, not garbage: a masked column is multiplied by a probability of zero, and 0 * NaN is NaN.
    new = like.new_zeros(shape)
    if old is not None:
        new[: old.shape[0], :, : old.shape[2]] = old
    return new
