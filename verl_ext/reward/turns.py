"""Which tokens of a response are the answer that is graded.

A response of several turns holds what tools and users said beside what the model said. Its agent loop knows which part
is the answer, and says so in `AgentLoopOutput.extra_fields`:

    extra_fields["graded"] = {"start": 120, "stop": 180}    # tokens of response_ids, as in a slice
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from verl_ext.errors import UserError

if TYPE_CHECKING:  # `score` is imported where there is no verl
    from verl.protocol import DataProtoItem

FIELD = "graded"
_SINGLE_TURN = 2
"""verl's count of turns for one question and one answer."""


def response_length(item: DataProtoItem) -> int:
    """Number of tokens of the response.

    verl's agent loops say it. Without that, prompt and response stand beside each other in fields of their own width,
    the padding of the response on its right.

    Raises:
        ValueError: neither is so.
    """
    told = item.non_tensor_batch.get("response_len")
    if told is not None:
        return int(told)
    prompt_width, response_width = item.batch["prompts"].shape[-1], item.batch["responses"].shape[-1]
    mask = item.batch["attention_mask"]
    if mask.shape[-1] != prompt_width + response_width:
        raise ValueError(
            f"attention_mask has {mask.shape[-1]} columns for a prompt of {prompt_width} and a response of "
            f"{response_width}: only `response_len` can tell where this response ends"
        )
    return int(mask[prompt_width:].sum())


def graded_span(row: Mapping[str, Any], length: int) -> slice:
    """The tokens of a response of `length` tokens that are graded: what its loop says, else all of them.

    Raises:
        UserError: a response of several turns whose loop does not say, or a loop that says what cannot be.
    """
    said = (row.get("tool_extra_fields") or {}).get(FIELD)
    if said is None:
        require_single_turn(row.get("__num_turns__"))
        return slice(0, length)
    start, stop = said["start"], said["stop"]
    if not 0 <= start <= stop <= length:
        raise UserError(f"agent loop: extra_fields.{FIELD} is {said}, but the response has {length} tokens")
    return slice(start, stop)


def require_single_turn(turns: int | None) -> None:
    """Refuse to take a response of several turns for the answer.

    Raises:
        UserError: says what is missing.
    """
    if turns is not None and turns > _SINGLE_TURN:
        raise UserError(
            f"agent loop: a response of {turns} turns, and not all of it is the model's answer; the loop has to put "
            f"{FIELD!r} into extra_fields for the reward manager math_verify_pool (docs/rewards.md)"
        )
