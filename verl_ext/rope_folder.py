"""python -m verl_ext.rope_folder model=FOLDER output=FOLDER key=value ...

Write a copy of a model with other rotary position embeddings (RoPE), for everything that reads model folders: online
training, evaluation, vLLM, SGLang, transformers 5 and 4. Weights are hard links where the disk allows it. Keys:

    rope_type                          default, linear, yarn or llama3
    rope_theta                         base of the frequencies
    factor                             how many times the original length the context becomes
    original_max_position_embeddings   the length that the model was trained at
    beta_fast beta_slow attention_factor     of yarn
    low_freq_factor high_freq_factor         of llama3
    max_position_embeddings            the context; without it factor times the original length
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verl_ext.cli import refuse_stray_blanks, user_errors_exit
from verl_ext.errors import ConfigError, UnknownKeyError, UserError
from verl_ext.model_folder import read_hf_config, require_model_folder
from verl_ext.model_rope import CONTEXT, OF_EVERY_TYPE, OPTIONAL, REQUIRED, add_old_spelling, changed_rope
from verl_ext.run_folder import INCOMPLETE_SUFFIX

KEYS = {
    *(name for name in OF_EVERY_TYPE if name != "partial_rotary_factor"),
    *(name for names in (*REQUIRED.values(), *OPTIONAL.values()) for name in names),
    CONTEXT,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do it; returns 0, and ends with exit code 2 and one line where the input cannot work."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if "--help" in arguments or "-h" in arguments:
        print(__doc__)
        return 0
    with user_errors_exit():
        model, output, rope = _read(refuse_stray_blanks(arguments))
        parameters, context = copy_with_rope(model, output, rope)
        print(f"{output}: context {context}, {parameters}")
    return 0


def copy_with_rope(model: Path, output: Path, rope: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Write the copy; it is there whole or not at all.

    Args:
        model: a local model folder.
        output: must not be there.
        rope: see `changed_rope`.

    Returns:
        `rope_parameters` and `max_position_embeddings` of the copy.

    Raises:
        UserError: the model cannot be read, has no RoPE to change, or a value cannot work; `output` is there.
    """
    if not model.is_dir():
        raise UserError(f"model: {model} is no folder; a model of the hub is downloaded first")
    require_model_folder(str(model))
    if output.exists():
        raise UserError(f"output: {output} exists")
    hf_config = read_hf_config(str(model), trust_remote_code=False)
    hf_config.rope_parameters, hf_config.max_position_embeddings = changed = changed_rope(hf_config, rope, "")
    partial = output.with_name(output.name + INCOMPLETE_SUFFIX)
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(model, partial, copy_function=_link_or_copy)
    (partial / "config.json").unlink()  # a link to the model's own
    hf_config.save_pretrained(partial)
    add_old_spelling(partial)
    partial.rename(output)
    return changed


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(Path(source).resolve(), target)
    except OSError:
        shutil.copy2(source, target)


def _read(arguments: Sequence[str]) -> tuple[Path, Path, dict[str, Any]]:
    folders: dict[str, Path] = {}
    rope: dict[str, Any] = {}
    for argument in arguments:
        key, separator, value = argument.partition("=")
        if not separator or not value:
            raise UserError(f"cannot read the argument {argument!r}: expected key=value")
        if key in ("model", "output"):
            folders[key] = Path(value).expanduser()
        elif key in KEYS:
            rope[key] = value if key == "rope_type" else _number(key, value)
        else:
            raise UnknownKeyError(key, {"model", "output", *KEYS})
    for key in ("model", "output"):
        if key not in folders:
            raise ConfigError(key, given=None, expected="a folder")
    if not rope:
        raise UserError(f"nothing to change: give some of {', '.join(sorted(KEYS))}")
    return folders["model"], folders["output"], rope


def _number(key: str, value: str) -> int | float:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    raise ConfigError(key, given=value, expected="a number")


if __name__ == "__main__":
    raise SystemExit(main())
