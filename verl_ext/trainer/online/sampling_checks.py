"""Sampling under which training cannot work or is not what it says, by the key that asks for it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from omegaconf import DictConfig, OmegaConf

from verl_ext.errors import ConfigError

GROUP = "actor_rollout_ref.rollout"
VALIDATION = f"{GROUP}.val_kwargs"
SMALLEST_TEMPERATURE = 0.01
"""Below it vLLM samples at 0.01, another policy than the one that is trained, and logits over it leave fp32's range."""


def check_sampling(config: DictConfig) -> None:
    """Check how answers are drawn, in training and in validation.

    Raises:
        ConfigError: the first key that cannot work.
    """
    rollout = config.actor_rollout_ref.rollout
    for prefix, group in ((GROUP, rollout), (VALIDATION, rollout.val_kwargs)):
        _check_cuts(prefix, group)
    _require(
        _is_number(rollout.temperature) and rollout.temperature >= SMALLEST_TEMPERATURE,
        f"{GROUP}.temperature",
        rollout.temperature,
        f"at least {SMALLEST_TEMPERATURE:g} in training: log-probabilities are those of the logits divided by it, so at 0 "
        f"they and the gradient are no numbers, and all answers to a prompt are equal (greedy validation is "
        f"{VALIDATION}.temperature=0)",
    )
    _require(
        rollout.do_sample is True,
        f"{GROUP}.do_sample",
        rollout.do_sample,
        "True: the answers to a prompt are compared, so they must be drawn",
    )
    greedy = rollout.val_kwargs.temperature
    _require(_is_number(greedy) and greedy >= 0, f"{VALIDATION}.temperature", greedy, "0 (greedy) or a positive number")
    _require(
        rollout.val_kwargs.do_sample is True or greedy == 0,
        f"{VALIDATION}.do_sample",
        rollout.val_kwargs.do_sample,
        f"True, or {VALIDATION}.temperature=0 (now {greedy:g}), which is what makes validation greedy",
    )
    cut = _cut(rollout)
    _require(
        not (cut and OmegaConf.select(config, "algorithm.rollout_correction.bypass_mode")),
        f"{GROUP}.{cut}",
        rollout.get(cut) if cut else None,
        "off (top_p=1, top_k=-1) with algorithm.rollout_correction.bypass_mode=True, which divides the new probability "
        "of a token among all by its old one among the kept: no update would begin at a ratio of 1",
    )


def sampling_notes(config: DictConfig) -> Iterator[str]:
    """What works otherwise than one may think, a line each."""
    rollout = config.actor_rollout_ref.rollout
    cut = _cut(rollout)
    if cut:
        yield (
            f"{GROUP}.{cut}={rollout.get(cut)}: answers are drawn from the likeliest tokens, while training takes "
            "probabilities among all tokens; the policy that it compares with is then not the one that answered. "
            "algorithm.rollout_correction.rollout_is=token weighs tokens accordingly; training/rollout_probs_diff_mean "
            "says how far both are apart"
        )


def _cut(rollout: DictConfig) -> str | None:
    """The key that keeps unlikely tokens from being drawn, or None."""
    if rollout.top_p < 1:
        return "top_p"
    return "top_k" if rollout.top_k > 0 else None


def _check_cuts(prefix: str, group: DictConfig) -> None:
    top_p, top_k = group.top_p, group.top_k
    _require(_is_number(top_p) and 0 < top_p <= 1, f"{prefix}.top_p", top_p, "above 0 and at most 1 (off)")
    whole = isinstance(top_k, int) and not isinstance(top_k, bool)
    _require(whole and top_k >= -1, f"{prefix}.top_k", top_k, "a number of tokens, or -1 (off)")


def _require(holds: bool, key: str, given: object, expected: str) -> None:
    if not holds:
        raise ConfigError(key, given=given, expected=expected)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
