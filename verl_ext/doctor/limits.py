"""What the lengths and the number of rows mean for a launch: what is cut, what is dropped, how many steps there are."""

from __future__ import annotations

from collections.abc import Callable

from omegaconf import DictConfig

from verl_ext.doctor.data_checks import DataFacts
from verl_ext.doctor.findings import Finding, of_error
from verl_ext.doctor.launch import Trainer
from verl_ext.doctor.model_shape import ModelShape
from verl_ext.errors import UserError

CUT_SHARE = 0.05
"""Share of rows that may lose their end without a warning."""
DROPPED_SHARE = 0.02
REPEATED_SHARE = 0.2


def length_findings(config: DictConfig, trainer: Trainer, facts: DataFacts) -> list[Finding]:
    """Rows against the limits of the configuration."""
    if trainer == "nft":
        return _prompt_lengths(config, facts)
    findings = []
    data = config.data
    longer = float((facts.lengths > data.max_length).mean())
    longest = int(facts.lengths.max())
    guessed = "" if facts.counted else " (guessed from characters: no tokenizer here)"
    where = f"of the first {facts.sampled} rows"
    if longer and data.truncation == "error":
        level = "error" if facts.counted else "warning"
        findings.append(
            Finding(
                "row-lengths",
                level,
                "data.truncation",
                f"{longer:.1%} {where} exceed data.max_length={data.max_length} (longest {longest}){guessed}, and error stops there",
                f"data.truncation=right cuts them, data.max_length={longest} keeps them",
            )
        )
    elif longer:
        findings.append(
            Finding(
                "row-lengths",
                "warning" if longer > CUT_SHARE and facts.counted else "info",
                "data.max_length",
                f"{longer:.1%} {where} exceed {data.max_length} tokens and lose their "
                f"{'beginning' if data.truncation == 'left' else 'end'} (longest {longest}){guessed}",
                f"data.max_length={longest} keeps them" if longer > CUT_SHARE else "",
            )
        )
    return findings + _without_loss(facts, trainer)


def _without_loss(facts: DataFacts, trainer: Trainer) -> list[Finding]:
    """Rows that teach nothing: cut down to their prompt, or with answers that are all right or all wrong."""
    key = "data.rollouts" if trainer == "nft_offline" else "data.max_length"
    if not (facts.learned > 0).any():
        fix = "raise data.max_length above the length of the prompts"
        return [Finding("no-loss-tokens", "error", key, "no token of the sampled rows carries loss", fix)]
    lost = 1 - facts.usable_share
    if trainer == "nft_offline":
        share = float((facts.learned <= 0).mean())
        findings = []
        if lost > 0.5:
            message = f"{lost:.0%} of the sampled prompts are all right or all wrong, and are left out"
            fix = "sample more answers a prompt, or prompts of another difficulty"
            findings.append(Finding("few-mixed-groups", "warning", key, message, fix))
        lost = share
    else:
        findings = []
    if lost > 0:
        level = "warning" if lost > DROPPED_SHARE and facts.counted else "info"
        message = f"{lost:.1%} of the sampled rows lose their whole response to data.max_length and are dropped"
        findings.append(Finding("rows-dropped", level, "data.max_length", message, "raise data.max_length"))
    return findings


def _prompt_lengths(config: DictConfig, facts: DataFacts) -> list[Finding]:
    data = config.data
    longer = float((facts.lengths > data.max_prompt_length).mean())
    if not longer:
        return []
    longest = int(facts.lengths.max())
    what = (
        f"{longer:.1%} of the first {facts.sampled} prompts exceed {data.max_prompt_length} tokens (longest {longest})"
    )
    what += "" if facts.counted else "; guessed from characters: no tokenizer here"
    fix = f"data.max_prompt_length={longest} keeps them"
    if not data.filter_overlong_prompts:
        message = f"{what}, and data.filter_overlong_prompts=False keeps them: generation refuses or cuts them"
        return [Finding("row-lengths", "warning", "data.max_prompt_length", message, fix)]
    if longer == 1.0 and facts.counted:
        return [Finding("row-lengths", "error", "data.max_prompt_length", f"{what}: no prompt is left", fix)]
    level = "warning" if longer > CUT_SHARE and facts.counted else "info"
    return [Finding("row-lengths", level, "data.max_prompt_length", f"{what} and are left out", fix)]


def row_count_findings(config: DictConfig, trainer: Trainer, facts: DataFacts) -> list[Finding]:
    """Whether the rows fill a batch; `facts` of the training files."""
    findings = []
    samples = config.data.get("train_max_samples", -1)
    rows = facts.rows if samples is None or samples < 0 else min(facts.rows, samples)
    usable = int(rows * facts.usable_share)
    if rows <= facts.sampled or usable < config.data.train_batch_size:
        findings += _caught(lambda: _check_rows(config, trainer, usable))
    return findings


def _check_rows(config: DictConfig, trainer: Trainer, usable: int) -> None:
    if trainer == "dft":
        from verl_ext.trainer.supervised.dft_checks import check_rows

        check_rows(config, usable)
    elif trainer == "nft_offline":
        from verl_ext.trainer.supervised.nft_checks import check_groups

        check_groups(config, usable)
    elif usable < config.data.train_batch_size:
        raise UserError(
            f"data.train_batch_size: got {config.data.train_batch_size}, expected at most {usable}, the prompts of "
            f"data.train_files with at most {config.data.max_prompt_length} tokens"
        )


def _caught(check: Callable[[], None]) -> list[Finding]:
    try:
        check()
    except UserError as error:
        return [of_error(error)]
    return []


def context_findings(config: DictConfig, trainer: Trainer, shape: ModelShape) -> list[Finding]:
    """Sequences against what the model was made for."""
    if trainer != "nft":
        longest, key = config.data.max_length, "data.max_length"
        if longest > shape.context:
            message = f"{longest} tokens, and the model was made for {shape.context} (max_position_embeddings)"
            fix = f"at most {shape.context}, or a model with longer positions"
            return [Finding("model-context", "warning", key, message, fix)]
        return []
    data, rollout = config.data, config.actor_rollout_ref.rollout
    longest, asked = data.max_prompt_length + data.max_response_length, rollout.max_model_len
    if asked is not None and asked > shape.context:
        message = f"{asked}, and the model was made for {shape.context} tokens (max_position_embeddings)"
        key, fix = "actor_rollout_ref.rollout.max_model_len", f"at most {shape.context}"
        return [Finding("model-context", "error", key, message, fix)]
    if longest > (asked or shape.context):
        limit = (
            f"actor_rollout_ref.rollout.max_model_len={asked}" if asked else f"the model's {shape.context} positions"
        )
        message = f"prompt and response may have {longest} tokens, and {limit} end a response before"
        fix = f"data.max_response_length={max(1, (asked or shape.context) - data.max_prompt_length)}"
        return [Finding("model-context", "warning", "data.max_response_length", message, fix)]
    return []


def steps_of(config: DictConfig, trainer: Trainer, facts: DataFacts | None) -> int | None:
    """Steps of the whole run, where the rows or the configuration say so."""
    if config.trainer.total_training_steps:
        return config.trainer.total_training_steps
    if facts is None:
        return None
    samples = config.data.get("train_max_samples", -1)
    rows = facts.usable_rows if samples is None or samples < 0 else min(facts.usable_rows, samples)
    return rows // config.data.train_batch_size * config.trainer.total_epochs
