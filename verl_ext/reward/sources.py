"""Which data source is graded how: where its answers stand, and the choices that its benchmark makes.

One table for training and evaluation. A name that is not in it is an error before anything starts, because a
source that nobody can grade would give every response a reward of 0.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from verl_ext.errors import ConfigError, nearest
from verl_ext.reward.code.options import CodeOptions
from verl_ext.reward.policy import STRICT, GradingPolicy
from verl_ext.reward.scorers import PREFIX as REASONING_GYM_PREFIX
from verl_ext.reward.scorers import require_allowed
from verl_ext.sandbox.pool import choose


@dataclass(frozen=True, kw_only=True)
class SourceRule:
    """How the answers of one data source are found and compared."""

    extraction: Literal["math", "strict_box", "answer_line", "gsm8k", "choice", "reasoning_gym", "judge", "code"] = (
        "math"
    )
    policy: GradingPolicy = STRICT
    task: str = ""
    """Name of the reasoning-gym task, whose own scorer decides."""


_MATH = SourceRule()
_GSM8K = SourceRule(extraction="gsm8k")
_STRICT_BOX = SourceRule(extraction="strict_box")
_ANSWER_LINE = SourceRule(extraction="answer_line")
_CHOICE = SourceRule(extraction="choice")
_JUDGE = SourceRule(extraction="judge")
_CODE = SourceRule(extraction="code")
# Minerva's golds are physical quantities with few digits; 1e-4 of their size is what the published harness allows.
_MINERVA = SourceRule(policy=GradingPolicy(relative_tolerance=1e-4))

SOURCES: dict[str, SourceRule] = {
    **dict.fromkeys(("gsm8k", "openai/gsm8k", "orca_math", "svamp", "asdiv", "mawps"), _GSM8K),
    **dict.fromkeys(
        (
            "math", "math500", "math500_w_answer", "math_oai", "lighteval/MATH", "DigitalLearningGmbH/MATH-lighteval",
            "HuggingFaceH4/MATH-500", "hendrycks/competition_math", "EleutherAI/hendrycks_math", "college_math",
        ),
        _MATH,
    ),
    **dict.fromkeys(
        (
            "aime", "aime24", "aime25", "aime_2024", "aime_2025", "aime2024", "aime2025", "aime-2024", "aime-2025",
            "HuggingFaceH4/aime_2024", "yentinglin/aime_2025", "math-ai/aime25", "amc", "amc23", "amc2023",
            "AI-MO/aimo-validation-aime", "AI-MO/aimo-validation-amc", "math-ai/amc23",
        ),
        _MATH,
    ),
    **dict.fromkeys(("minerva_math", "minerva", "math-ai/minervamath"), _MINERVA),
    **dict.fromkeys(("olympiadbench", "olympiad_bench", "Hothan/OlympiadBench", "math-ai/olympiadbench"), _MATH),
    **dict.fromkeys(
        (
            "AI-MO/NuminaMath-CoT", "AI-MO/NuminaMath-1.5", "open-r1/OpenR1-Math-220k", "numina_math", "aops_forum", "amc_aime", "cn_k12",
            "olympiads", "synthetic_amc", "synthetic_math", "numina_aops_forum", "numina_synthetic_math",
            "numina_amc_aime", "numina_synthetic_amc", "numina_cn_k12", "numina_olympiads",
        ),
        _MATH,
    ),
    **dict.fromkeys([f"arithmetic/{level}" for level in ("sums", "easy", "standard", "hard", "mixed")], _MATH),
    **dict.fromkeys(("math_dapo", "math_dapo_reasoning", "BytedTsinghua-SIA/DAPO-Math-17k"), _ANSWER_LINE),
    **dict.fromkeys(
        ("math_dapo_boxed", "amc_dapo_boxed", "amc2023_dapo_boxed", "aime_dapo_boxed", "aime_2024_dapo_boxed",
         "aime_2025_dapo_boxed"),
        _STRICT_BOX,
    ),
    **dict.fromkeys(
        ("proof", "math_proof", "lm-provers/FineProofs-SFT", "imo_proofbench", "proofbench", "imo_answerbench"), _JUDGE
    ),
    **dict.fromkeys(
        (
            "code", "taco", "apps", "codeforces", "codecontests", "livecodebench", "kodcode", "humaneval", "mbpp",
        ),
        _CODE,
    ),
    **dict.fromkeys(("multiple_choice", "aqua", "sat_math", "mmlu_stem", "gpqa"), _CHOICE),
}  # fmt: skip


_BY_DEFAULT = CodeOptions()


def rule_for(data_source: str) -> SourceRule:
    """The rule of a data source.

    Raises:
        ConfigError: for a name that no rule covers; it lists the known ones.
    """
    rule = SOURCES.get(data_source)
    if rule is not None:
        return rule
    if data_source.startswith(REASONING_GYM_PREFIX) and len(data_source) > len(REASONING_GYM_PREFIX):
        return SourceRule(extraction="reasoning_gym", task=data_source[len(REASONING_GYM_PREFIX) :])
    close = nearest(data_source, SOURCES)
    hint = f"(did you mean {close!r}?) " if close else ""
    known = ", ".join(sorted(SOURCES))
    raise ConfigError("data_source", given=data_source, expected=f"{hint}one of {known}, {REASONING_GYM_PREFIX}TASK")


def check_data_files(
    files: Iterable[Any],
    *,
    column: str,
    has_judge: bool,
    evaluating_scorers: Collection[str] = (),
    code: CodeOptions = _BY_DEFAULT,
) -> None:
    """Check every data source named in the parquet files of a run, before anything heavy starts.

    Args:
        files: a path, a list of paths or None, as in `data.train_files`. Only local parquet files are read.
        column: the column that names the source.
        has_judge: whether a remote judge is configured.
        evaluating_scorers: reasoning-gym tasks whose scorer may run text as Python.
        code: how programs are run.

    Raises:
        ConfigError: a source that no rule covers, that needs a judge where there is none, whose scorer may not run, or
            whose programs could not be isolated on this machine.
    """
    for name in sorted(set().union(*(_sources_in(path, column) for path in local_files(files)))):
        check_source(name, has_judge=has_judge, evaluating_scorers=evaluating_scorers, code=code)


def check_source(
    name: str, *, has_judge: bool, evaluating_scorers: Collection[str], code: CodeOptions = _BY_DEFAULT
) -> None:
    """Whether a run with these options can grade a data source.

    Raises:
        ConfigError: see `check_data_files`.
    """
    rule = rule_for(name)
    if rule.extraction == "judge" and not has_judge:
        raise ConfigError("reward.reward_kwargs.judge", given=None, expected=f"a judge, for data source {name!r}")
    if rule.extraction == "code":
        choose(code.sandbox, code.url)
    require_allowed(rule.task, evaluating_scorers, "reward.reward_kwargs.evaluating_scorers")


def local_files(files: Iterable[Any]) -> list[str]:
    """The local parquet files among what `data.train_files` and its like hold."""
    paths = []
    for entry in files:
        paths += [] if entry is None else [entry] if isinstance(entry, str) else list(entry)
    return [str(path) for path in paths if str(path).endswith(".parquet") and os.path.isfile(path)]


def _sources_in(path: str, column: str) -> set[str]:
    from pyarrow import parquet

    if column not in parquet.read_schema(path).names:
        return set()
    return set(parquet.read_table(path, columns=[column]).column(column).unique().to_pylist()) - {None}
