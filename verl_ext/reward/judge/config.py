"""Where a judge is, what it is shown, and how its reply becomes a number."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from verl_ext.errors import ConfigError, nearest
from verl_ext.reward.options import PREFIX, known_keys

_NAMES = ("problem", "solution", "reference", "rubric", "max_points")
_REQUIRED = ("problem", "solution")
PLACEHOLDER = re.compile(r"\{(" + "|".join(_NAMES) + r")\}")
_OWN_KEYS = ("model", "messages", "temperature", "max_tokens", "stream", "n")
POINTS = 7.0
"""What a proof at an olympiad is worth."""


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """The keys of `reward.reward_kwargs.judge`, and of `judge` in an evaluation.

    Raises:
        ConfigError: a value that cannot work; names the key.
    """

    base_url: str | Collection[str]
    """Up to and without `/chat/completions`, for example `http://judge:8000/v1`. Of several the next one is asked each
    time, and a request that failed goes to another."""
    model: str
    rubric_file: str = ""
    """A prompt with `{problem}` and `{solution}`, and where it has use for them `{reference}` (the row's gold),
    `{rubric}` (the row's `extra_info.rubric`) and `{max_points}`."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Data source -> prompt file, for sources with a prompt of their own."""
    score_pattern: str = r"<score>\s*(\d{1,4}(?:\.\d{1,4})?)\s*</score>"
    """A regex with one group, searched in the reply behind the judge's own thinking."""
    score_take: Literal["first", "last"] = "last"
    """Which match counts."""
    score_map: Mapping[str, float] | None = None
    """What the group matches, in any case, -> score, where the judge answers in words; None for numbers."""
    max_score: float | None = None
    """The score that is worth 1: the largest of `score_map`, else 7, unless given. A higher one is no verdict."""
    pass_share: float = 1.0
    """From which share of `max_score` on an answer counts as correct."""
    missing_score: Literal["error", "zero"] = "error"
    """A reply without a score, or with one out of bounds: no verdict, or a score of 0."""
    votes: int = 1
    """How many replies the score is the mean of; each needs a score."""
    after_think: bool = True
    """Grade only what follows `</think>`; a response without it has no answer."""
    strip_self_evaluation: bool = False
    """Cut what the answer says of itself: from a heading `Evaluation`, `Self Evaluation` or `Final Evaluation` on."""
    concurrency: int = 32
    """Requests at once of one reward worker."""
    timeout_s: float = 300.0
    """For one request."""
    retries: int = 4
    backoff_s: float = 1.0
    """Wait before the first retry; doubles each time, with jitter."""
    max_tokens: int = 4096
    temperature: float = 0.0
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """More of the request: `reasoning_effort`, `top_p` and whatever the endpoint takes."""
    cache_dir: str = ""
    """Folder that keeps each reply with a score under a hash of what was asked, so that nothing is asked twice."""
    api_key_env: str = "JUDGE_API_KEY"
    """Name of the environment variable with the key; the key itself is in no config and no log."""
    key: str = f"{PREFIX}.judge"
    """What errors call this configuration."""

    def __post_init__(self) -> None:
        for url in self.urls or ("",):
            if not url.startswith(("http://", "https://")):
                raise self._error("base_url", self.base_url, "a URL that starts with http:// or https://")
        self._check_score()
        for name in ("timeout_s", "concurrency", "backoff_s", "votes", "max_tokens"):
            if not getattr(self, name) > 0:
                raise self._error(name, getattr(self, name), "a positive number")
        if self.retries < 0:
            raise self._error("retries", self.retries, "0 or more")
        if self.votes > 1 and self.temperature == 0:
            raise self._error("votes", self.votes, "1 with temperature 0, where every reply is the same")
        for name in self.extra_body:
            if name in _OWN_KEYS:
                raise self._error(f"extra_body.{name}", self.extra_body[name], "not here; a key of its own sets it")
        if not self.rubric_file and not self.prompts:
            raise self._error("rubric_file", self.rubric_file, "a prompt file")
        if self.rubric_file:
            self._check_prompt("rubric_file", self.rubric_file)
        for source, file in self.prompts.items():
            self._check_prompt(f"prompts.{source}", file)

    def _check_score(self) -> None:
        try:
            groups = re.compile(self.score_pattern).groups
        except re.error as error:
            raise self._error("score_pattern", self.score_pattern, f"a regex ({error})") from None
        if groups != 1:
            raise self._error("score_pattern", self.score_pattern, "a regex with one group")
        for name, allowed in (("score_take", ("first", "last")), ("missing_score", ("error", "zero"))):
            if getattr(self, name) not in allowed:
                raise self._error(name, getattr(self, name), " or ".join(allowed))
        if self.max_score is not None and not 0 < self.max_score < math.inf:
            raise self._error("max_score", self.max_score, "a positive number")
        for word, score in (self.score_map or {}).items():
            if not isinstance(score, int | float) or not 0 <= score < math.inf:
                raise self._error(f"score_map.{word}", score, "a number, 0 or more")
        if self.score_map is not None and not any(self.score_map.values()):
            raise self._error("score_map", dict(self.score_map), "at least one score above 0")
        if self.score_map and self.max_score and max(self.score_map.values()) > self.max_score:
            raise self._error(
                "max_score", self.max_score, f"the largest score of score_map, {max(self.score_map.values()):g}"
            )
        if not 0 < self.pass_share <= 1:
            raise self._error("pass_share", self.pass_share, "above 0 and at most 1")

    def _check_prompt(self, name: str, file: str) -> None:
        if not Path(file).is_file():
            raise self._error(name, file, "an existing file")
        missing = [name for name in _REQUIRED if f"{{{name}}}" not in Path(file).read_text(encoding="utf-8")]
        if missing:
            raise self._error(name, file, f"a text with {{{missing[0]}}} in it")

    def _error(self, name: str, given: Any, expected: str) -> ConfigError:
        return ConfigError(f"{self.key}.{name}", given=given, expected=expected)

    @property
    def urls(self) -> tuple[str, ...]:
        """The endpoints."""
        return (self.base_url,) if isinstance(self.base_url, str) else tuple(self.base_url)

    @property
    def max_points(self) -> float:
        """The score that is worth 1."""
        if self.max_score is not None:
            return float(self.max_score)
        return float(max(self.score_map.values())) if self.score_map else POINTS

    def prompt_file(self, data_source: str) -> str:
        """The file of a data source's prompt.

        Raises:
            ConfigError: it has none, and there is none for all.
        """
        file = self.prompts.get(data_source) or self.rubric_file
        if not file:
            close = nearest(data_source, self.prompts)
            hint = f"; {close!r} has one" if close else ""
            raise self._error("rubric_file", self.rubric_file, f"a prompt file, for data source {data_source!r}{hint}")
        return file

    def asks_for(self, data_source: str) -> set[str]:
        """The placeholders that a data source's prompt holds.

        Raises:
            ConfigError: as `prompt_file`.
        """
        return set(PLACEHOLDER.findall(Path(self.prompt_file(data_source)).read_text(encoding="utf-8")))


def read_judge(given: Mapping[str, Any], key: str = f"{PREFIX}.judge") -> JudgeConfig:
    """The judge of a configuration.

    Args:
        given: keys of `JudgeConfig`.
        key: what errors call the configuration.

    Raises:
        ConfigError: a key that nobody reads, or a value that cannot work.
    """
    given = dict(given)
    if "key" in given:
        raise ConfigError(f"{key}.key", given=given["key"], expected="no such key")
    return JudgeConfig(**known_keys(JudgeConfig, given, key), key=key)
