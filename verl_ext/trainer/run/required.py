"""Keys that only the user can know; `null` in every configuration, where verl has the path of an example."""

from __future__ import annotations

from collections.abc import Mapping

from omegaconf import DictConfig, OmegaConf

from verl_ext.errors import UserError


def require_values(config: DictConfig, expected: Mapping[str, str]) -> None:
    """Check that keys without a default have been set.

    Args:
        expected: key -> what it should hold, as a phrase.

    Raises:
        UserError: names the first that has not.
    """
    for key, what in expected.items():
        if OmegaConf.select(config, key) is None:
            raise UserError(f"{key}: not set; expected {what}")
