"""How the NFT repository reduces token losses to one number; verl's own reductions are in verl."""

from __future__ import annotations

from torch import Tensor

from verl_ext.objectives.nft_config import Ratio

PUBLISHED_DIVISOR = 1000.0


def published_sum(losses: Tensor, response_mask: Tensor, ratio: Ratio) -> Tensor:
    """Sum over tokens / 1000, or with a ratio of whole sequences the sum over responses.

    FSDP then averages over ranks, so the scale depends on the number of tokens and of ranks.

    Args:
        losses: of `nft_token_loss`, (batch, response_length); with a ratio of whole sequences every token of a
            response holds the loss of that response.
        response_mask: (batch, response_length); a row without any token is padding.
        ratio: of `nft_token_loss`.

    Returns:
        A scalar.
    """
    masked = losses * response_mask
    if ratio == "token":
        return masked.sum() / PUBLISHED_DIVISOR
    return (masked.sum(-1) / response_mask.sum(-1).clamp(min=1)).sum()
