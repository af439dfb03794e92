"""The keys of `reward.reward_kwargs` that the manager `math_verify_pool` reads, checked before anything starts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal

from verl_ext.errors import ConfigError, nearest
from verl_ext.reward.code.options import CodeOptions
from verl_ext.reward.policy import POLICIES, GradingPolicy
from verl_ext.reward.scorers import check_names

PREFIX = "reward.reward_kwargs"


@dataclass(frozen=True, kw_only=True)
class OverlongOptions:
    """DAPO's soft punishment of long responses (arXiv 2503.14476, Eq. 13), with verl's key names."""

    enable: bool = False
    len: int = 0
    """Length of the buffer before `max_resp_len`, in tokens, over which the penalty grows from 0."""
    penalty_factor: float = 1.0
    log: bool = False
    """Also report `overlong_reward` and `overlong` per answer."""

    def penalty(self, response_length: int, max_resp_len: int) -> float:
        """0 up to the buffer, then falling in proportion, to `-penalty_factor` at `max_resp_len`."""
        if not self.enable:
            return 0.0
        exceeded = response_length - (max_resp_len - self.len)
        return min(-exceeded / self.len * self.penalty_factor, 0.0)


@dataclass(frozen=True, kw_only=True)
class RewardOptions:
    """How grades become rewards."""

    workers: int = 4
    """Worker processes per node; all reward workers of a node share them."""
    timeout_s: float = 5.0
    """Wall time for one answer, counted from when its own work starts."""
    memory_mb: int = 2048
    """Address space of one worker process."""
    policy: str = ""
    """`strict`, `published` or `qwen` for every source; empty for what the table of sources says."""
    after_think: bool = False
    """Look only at what follows the last `</think>`."""
    score_coding: Literal["zero_one", "minus_one_one"] = "zero_one"
    """The reward of a wrong and a right answer: 0 and 1, or -1 and 1."""
    format_bonus: float = 0.0
    """Added to the reward of a response whose answer is in a closed box, whether right or wrong."""
    on_no_verdict: Literal["drop", "wrong"] = "wrong"
    """An answer that ended in timeout, error or an unparsable gold: taken out of the step, or wrong. Only this
    package's online trainer can take it out, and does so unless told otherwise."""
    warn_share: float = 0.02
    """Warn when more than this share of the last answers ended in timeout, error or an unparsable gold."""
    max_resp_len: int | None = None
    """Longest response in tokens; needed by the overlong penalty."""
    overlong_buffer_cfg: OverlongOptions = OverlongOptions()
    evaluating_scorers: Collection[str] = ()
    """reasoning-gym tasks that are graded although their scorer runs text as Python (`scorers.EVALUATING`)."""
    code: Mapping[str, Any] | None = None
    """Keys of `code.options.CodeOptions`, for data sources whose answers are programs."""
    judge: Any = None
    """Keys of `judge.JudgeConfig`, for data sources graded by a remote judge."""

    def __post_init__(self) -> None:
        if self.score_coding not in ("zero_one", "minus_one_one"):
            raise ConfigError(f"{PREFIX}.score_coding", given=self.score_coding, expected="zero_one or minus_one_one")
        if self.on_no_verdict not in ("drop", "wrong"):
            raise ConfigError(f"{PREFIX}.on_no_verdict", given=self.on_no_verdict, expected="drop or wrong")
        if isinstance(self.evaluating_scorers, str):
            raise ConfigError(f"{PREFIX}.evaluating_scorers", given=self.evaluating_scorers, expected="a list of tasks")
        check_names(self.evaluating_scorers, f"{PREFIX}.evaluating_scorers")
        self.code_options()
        if self.policy and self.policy not in POLICIES:
            raise ConfigError(f"{PREFIX}.policy", given=self.policy, expected=f"one of {', '.join(POLICIES)}, or empty")
        if not 0 <= self.warn_share <= 1:
            raise ConfigError(f"{PREFIX}.warn_share", given=self.warn_share, expected="a share from 0 to 1")
        overlong = self.overlong_buffer_cfg
        if overlong.enable and overlong.len <= 0:
            raise ConfigError(
                f"{PREFIX}.overlong_buffer_cfg.len", given=overlong.len, expected="a positive number of tokens"
            )
        if overlong.enable and (self.max_resp_len is None or self.max_resp_len < overlong.len):
            raise ConfigError(
                f"{PREFIX}.max_resp_len",
                given=self.max_resp_len,
                expected=f"at least overlong_buffer_cfg.len ({overlong.len})",
            )

    def code_options(self, tests_dirs: Iterable[str] = ()) -> CodeOptions:
        """How programs are run.

        Args:
            tests_dirs: where stored tests are besides the folders that `code.tests_dirs` names.

        Raises:
            ConfigError: a key that nobody reads, or a value that cannot work.
        """
        given = known_keys(CodeOptions, dict(self.code or {}), f"{PREFIX}.code")
        own = given.pop("tests_dirs", None) or ()
        folders = [own] if isinstance(own, str) else [str(folder) for folder in own]
        return CodeOptions(**{**given, "tests_dirs": (*folders, *tests_dirs), "key": f"{PREFIX}.code."})

    @property
    def grading_policy(self) -> GradingPolicy | None:
        """The policy by name, or None for each source's own."""
        return POLICIES[self.policy] if self.policy else None

    def base_score(self, share: float) -> float:
        """The reward of a grade from 0 (wrong) to 1 (right) in the chosen coding."""
        return share if self.score_coding == "zero_one" else 2.0 * share - 1.0


def read_options(reward_kwargs: Mapping[str, Any] | None) -> RewardOptions:
    """Options from the config.

    Raises:
        ConfigError: a key that nobody reads, or a value that cannot work.
    """
    given = dict(reward_kwargs or {})
    overlong = given.pop("overlong_buffer_cfg", None)
    options = known_keys(RewardOptions, given, PREFIX)
    if overlong is not None:
        options["overlong_buffer_cfg"] = OverlongOptions(
            **known_keys(OverlongOptions, dict(overlong), f"{PREFIX}.overlong_buffer_cfg")
        )
    return RewardOptions(**options)


def known_keys(config: type, given: dict[str, Any], prefix: str) -> dict[str, Any]:
    """`given`, once each of its keys is known to be a field of the dataclass `config`, and no required one is missing.

    Raises:
        ConfigError: naming the nearest known key.
    """
    names = [field.name for field in fields(config)]
    for name, value in given.items():
        if name not in names:
            close = nearest(name, names)
            hint = f"{prefix}.{close}" if close else f"one of {', '.join(names)}"
            raise ConfigError(f"{prefix}.{name}", given=value, expected=f"no such key; {hint}")
    for field in fields(config):
        if field.default is MISSING and field.default_factory is MISSING and field.name not in given:
            raise ConfigError(f"{prefix}.{field.name}", given=None, expected="a value; it has no default")
    return given
