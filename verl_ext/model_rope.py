"""Rotary position embeddings (RoPE) of a model: what a run changes of them, and how a model folder spells them.

transformers 5 keeps base, type and factor in one dict, `rope_parameters`; transformers 4 reads `rope_theta` and
`rope_scaling`. An attribute `rope_theta` on a configuration of transformers 5 is read by nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from verl_ext.errors import ConfigError, UserError

REQUIRED = {
    "default": (),
    "linear": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}
"""What each type needs beside the base (transformers' `modeling_rope_utils`).

Not `dynamic`: its frequencies depend on the longest sequence so far, and packing would change results.
"""

OPTIONAL = {"yarn": ("attention_factor", "beta_fast", "beta_slow")}

OF_EVERY_TYPE = ("rope_type", "rope_theta", "partial_rotary_factor")

CONTEXT = "max_position_embeddings"

WHOLE_NUMBERS = ("original_max_position_embeddings", CONTEXT)


def given_changes(rope: Mapping[str, Any] | None) -> dict[str, Any]:
    """The keys of `model.rope` that are set."""
    return {name: value for name, value in (rope or {}).items() if value is not None}


def changed_rope(hf_config: Any, rope: Mapping[str, Any] | None, group: str = "model") -> tuple[dict[str, Any], int]:
    """What a model's RoPE becomes; the configuration stays as it is.

    What is not given stays as the model has it, but a new `rope_type` takes nothing of the old one's scaling along.
    Where a type needs `original_max_position_embeddings` and none is given, it is that of the model, or else its
    context. A context (`max_position_embeddings`) that is not given becomes factor x original length where it is scaled.

    Args:
        hf_config: of transformers 5.
        rope: keys of `rope_parameters`, and `max_position_embeddings`; None counts as not given.
        group: of the configuration that holds `rope`, for messages; may be empty.

    Returns:
        `rope_parameters` and `max_position_embeddings`.

    Raises:
        UserError: the model has no RoPE that one dict describes.
        ConfigError: a value that cannot work, by its key.
    """
    changes, key = given_changes(rope), f"{group}.rope" if group else "rope"
    present = _only_rope_of(hf_config, key)
    for name, value in changes.items():
        _require_number(f"{key}.{name}", name, value)
    rope_type = changes.get("rope_type", present.get("rope_type", "default"))
    if rope_type not in REQUIRED:
        raise ConfigError(f"{key}.rope_type", given=rope_type, expected=f"one of {', '.join(REQUIRED)}")
    own = (*REQUIRED[rope_type], *OPTIONAL.get(rope_type, ()))
    for name in changes:
        if name not in (*own, *OF_EVERY_TYPE, CONTEXT):
            raise ConfigError(f"{key}.{name}", given=changes[name], expected=f"nothing with rope_type={rope_type}")

    same_type = rope_type == present.get("rope_type", "default")
    kept = present if same_type else {name: present[name] for name in OF_EVERY_TYPE if name in present}
    result = {**kept, **{name: value for name, value in changes.items() if name != CONTEXT}, "rope_type": rope_type}
    context = hf_config.max_position_embeddings
    original = present.get("original_max_position_embeddings", context)
    if "original_max_position_embeddings" in REQUIRED[rope_type]:
        original = result.setdefault("original_max_position_embeddings", original)
    missing = [name for name in REQUIRED[rope_type] if name not in result]
    if missing:
        raise ConfigError(f"{key}.{missing[0]}", given=None, expected=f"a number, with rope_type={rope_type}")
    _require_scaling(key, result)
    if CONTEXT in changes:
        context = changes[CONTEXT]
    elif "factor" in changes or "original_max_position_embeddings" in changes:
        context = math.floor(result["factor"] * original)
    elif not same_type:
        context = original  # a scaling that is taken away takes its context with it
    return result, context


def lay_rope_on(hf_config: Any, rope: Mapping[str, Any] | None, group: str = "model") -> None:
    """Change a configuration to what `changed_rope` says, if anything is given.

    To be called before the model is built: rotary embeddings compute their frequencies when they are made.
    """
    if given_changes(rope):
        hf_config.rope_parameters, hf_config.max_position_embeddings = changed_rope(hf_config, rope, group)


def add_old_spelling(folder: Path) -> None:
    """Write RoPE of a saved `config.json` also as transformers 4 and what is built on it read it.

    Without these keys such a reader takes a base of 10,000 and no scaling, and says nothing. A model with a dict per type
    of layer is left alone: each such family had keys of its own.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.get("rope_parameters")
    if not rope or any(isinstance(value, dict) for value in rope.values()):
        return
    if "rope_theta" in rope:
        config["rope_theta"] = rope["rope_theta"]
    if "partial_rotary_factor" in rope:
        config["partial_rotary_factor"] = rope["partial_rotary_factor"]
    scaling = {name: value for name, value in rope.items() if name not in ("rope_theta", "partial_rotary_factor")}
    config["rope_scaling"] = None if scaling.get("rope_type", "default") == "default" else scaling
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _only_rope_of(hf_config: Any, key: str) -> dict[str, Any]:
    name = type(hf_config).__name__
    if not type(hf_config).__module__.startswith("transformers."):
        raise UserError(f"{key}: {name} comes with the model's own code, which may read its RoPE from elsewhere")
    present = getattr(hf_config, "rope_parameters", None)
    if not present or not hasattr(hf_config, CONTEXT):
        raise UserError(f"{key}: {name} has no rotary position embeddings that could be changed")
    if any(isinstance(value, dict) for value in present.values()):
        raise UserError(
            f"{key}: {name} has other rotary position embeddings for each type of layer; not supported here"
        )
    return dict(present)


def _require_number(key: str, name: str, value: Any) -> None:
    if name == "rope_type":
        return
    whole = name in WHOLE_NUMBERS
    right = isinstance(value, int if whole else Real) and not isinstance(value, bool) and math.isfinite(value)
    if not right or value <= 0:
        raise ConfigError(key, given=value, expected=f"a positive {'whole ' if whole else ''}number")


def _require_scaling(key: str, rope: Mapping[str, Any]) -> None:
    """Relations that transformers warns about, at most, and that make no sense."""
    if rope.get("factor", 1) < 1:
        raise ConfigError(f"{key}.factor", given=rope["factor"], expected="a number of 1 or more")
    fast, slow = rope.get("beta_fast") or 32, rope.get("beta_slow") or 1
    if rope["rope_type"] == "yarn" and fast <= slow:
        raise ConfigError(f"{key}.beta_fast", given=fast, expected=f"more than beta_slow={slow}")
    if rope["rope_type"] == "llama3" and rope["high_freq_factor"] <= rope["low_freq_factor"]:
        raise ConfigError(
            f"{key}.high_freq_factor",
            given=rope["high_freq_factor"],
            expected=f"more than low_freq_factor={rope['low_freq_factor']}",
        )
