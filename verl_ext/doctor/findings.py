"""What the doctor found: a code that stays the same between versions, a level, the key, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from verl_ext.errors import UserError

Level = Literal["error", "warning", "info"]

EXIT_CODES: dict[Level, int] = {"info": 0, "warning": 1, "error": 2}

_KEY = re.compile(r"^[a-z_][a-z0-9_]*(\.[a-z0-9_]+)+")

CODES = {
    # last part of a key that a trainer's own check names -> code
    "bad-batch": (
        *("train_batch_size", "micro_batch_size_per_gpu", "max_token_len_per_gpu", "ppo_mini_batch_size", "n"),
        *("ppo_micro_batch_size_per_gpu", "ppo_max_token_len_per_gpu", "gen_batch_size"),
    ),
    "sequence-parallel": ("ulysses_sequence_parallel_size", "use_remove_padding", "attn_implementation"),
    "rollout-parallel": ("tensor_model_parallel_size",),
    "model-files": ("path", "tokenizer_path"),
    "data-files": ("train_files", "val_files", "rollouts", "val_rollouts", "chat_template_file"),
    "data-columns": (
        *("prompt_key", "response_key", "prompt_dict_keys", "response_dict_keys", "messages_key", "responses_key"),
        *("correct_key", "prompt_ids_key", "response_ids_key", "old_log_probs_key", "reward_fn_key"),
    ),
    "row-lengths": ("max_length", "max_prompt_length", "max_response_length", "truncation"),
    "no-grader": ("judge",),
    "bad-objective": (
        *("adv_estimator", "reduction", "neg_weight", "eps", "positive_floor", "prompt_weight", "ratio"),
        *("loss_agg_mode", "use_kl_in_reward"),
    ),
    "launch": ("nnodes", "resume_from_path"),
}
FIXES = {
    # what to do about a finding whose message does not end in what was expected
    "bad-argument": "write it as key=value",
    "bad-objective": "correct the value",
    "bad-value": "correct the value",
    "data-columns": "name a column that is there, or prepare the file anew (data_preprocess/)",
    "data-files": "correct the path, or make the file (data_preprocess/)",
    "data-rows": "correct or remove the row",
    "launch": "start it in that way",
    "model-files": "give a hub id, or a folder with config.json, weights and a tokenizer",
    "no-grader": "correct the name, or add a rule to verl_ext/reward/sources.py",
    "not-set": "set it",
}
_CODE_OF = {name: code for code, names in CODES.items() for name in names}


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing."""

    code: str
    level: Level
    key: str
    """Dotted key as the user writes it, a file, or "" where it is the whole launch."""
    message: str
    """What was found."""
    fix: str = ""
    """What to do, in one line; empty where the message already says it or nothing needs doing."""


def exit_code(findings: Iterable[Finding]) -> int:
    """0 when nothing is wrong, 1 with warnings, 2 when the launch will fail."""
    return max((EXIT_CODES[finding.level] for finding in findings), default=0)


def of_error(error: UserError, *, default: str = "bad-value", key: str = "") -> Finding:
    """The finding that a trainer's own check stands for; it names its key at the beginning of its line.

    Args:
        error: what the check raised.
        default: code of the finding where the key has none.
        key: of the finding where the error names none.
    """
    text = str(error)
    match = _KEY.match(text)
    named = match[0] if match else key if key and text.startswith(f"{key}:") else ""
    code = _CODE_OF.get(named.rpartition(".")[2], default)
    if ": not set" in text:
        code = "not-set"
    elif text.startswith("data_source:"):
        code, named, text = (
            "no-grader",
            "data_source",
            text.replace("one of ", "a name in verl_ext/reward/sources.py: "),
        )
    rest = text[len(named) :].removeprefix(":").strip() if named else text
    message, _, expected = rest.partition(", expected ")
    fix = f"expected {expected}" if expected else FIXES.get(code, "")
    return Finding(code, "error", named or key, message, shortened(fix))


def shortened(text: str, length: int = 240) -> str:
    """The beginning of a long line."""
    return text if len(text) <= length else text[: length - 4].rsplit(" ", 1)[0] + " ..."
