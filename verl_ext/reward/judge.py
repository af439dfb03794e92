"""A remote judge for free-form answers such as proofs: an OpenAI-compatible endpoint and a rubric from a file.

The graded text is what follows the last `</think>`. It cannot steer the score: it is put into the rubric in one
substitution that does not look at it again, whatever in it looks like a score is defused, and the score is read only
from the judge's own reply, after the judge's own thinking.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_ext.errors import ConfigError
from verl_ext.reward.grading import Grade
from verl_ext.reward.math import extraction
from verl_ext.reward.options import PREFIX

_PLACEHOLDER = re.compile(r"\{(problem|solution|reference)\}")
_RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
MAX_REPLY_BYTES = 4 * 2**20


@dataclass(frozen=True, kw_only=True)
class JudgeConfig:
    """Where the judge is, and how its reply becomes a number."""

    base_url: str
    """Up to and without `/chat/completions`, for example `http://judge:8000/v1`."""
    model: str
    rubric_file: str
    """A prompt with `{problem}` and `{solution}`, and `{reference}` where the rubric has use for it."""
    score_pattern: str = r"<score>\s*(\d{1,4}(?:\.\d{1,4})?)\s*</score>"
    """A regex with one group, searched in the reply; its last match counts."""
    max_score: float = 7.0
    """The score that maps to 1."""
    pass_share: float = 1.0
    """From which share of `max_score` on an answer counts as correct."""
    after_think: bool = True
    """Grade only what follows `</think>`; a response without it has no answer."""
    concurrency: int = 32
    timeout_s: float = 300.0
    """For one request."""
    retries: int = 4
    backoff_s: float = 1.0
    """Wait before the first retry; doubles each time, with jitter."""
    max_tokens: int = 4096
    temperature: float = 0.0
    api_key_env: str = "JUDGE_API_KEY"
    """Name of the environment variable with the key; the key itself is in no config and no log."""

    def __post_init__(self) -> None:
        key = f"{PREFIX}.judge"
        if not self.base_url.startswith(("http://", "https://")):
            raise ConfigError(
                f"{key}.base_url", given=self.base_url, expected="a URL that starts with http:// or https://"
            )
        try:
            groups = re.compile(self.score_pattern).groups
        except re.error as error:
            raise ConfigError(f"{key}.score_pattern", given=self.score_pattern, expected=f"a regex ({error})") from None
        if groups != 1:
            raise ConfigError(f"{key}.score_pattern", given=self.score_pattern, expected="a regex with one group")
        for name in ("max_score", "timeout_s", "concurrency", "backoff_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{key}.{name}", given=getattr(self, name), expected="a positive number")
        if not Path(self.rubric_file).is_file():
            raise ConfigError(f"{key}.rubric_file", given=self.rubric_file, expected="an existing file")
        rubric = Path(self.rubric_file).read_text(encoding="utf-8")
        missing = [name for name in ("{problem}", "{solution}") if name not in rubric]
        if missing:
            raise ConfigError(f"{key}.rubric_file", given=self.rubric_file, expected=f"a text with {missing[0]} in it")


class Judge:
    """Asks the judge; use it from one event loop."""

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        self._rubric = Path(config.rubric_file).read_text(encoding="utf-8")
        self._score = re.compile(config.score_pattern)
        self._slots = asyncio.Semaphore(config.concurrency)

    async def grade(self, problem: str, response: str, reference: str = "") -> Grade:
        """Grade one response. A judge that fails gives status `timeout` or `error`, never a wrong answer in silence."""
        text = extraction.after_think(response) if self.config.after_think else response
        if text is None or not text.strip():
            return Grade(False, None, "no_answer")
        prompt = self._prompt(problem, text.strip(), reference)
        async with self._slots:
            started = time.perf_counter()
            reply, status, detail = await self._ask(prompt)
            seconds = time.perf_counter() - started
        if reply is None:
            return Grade(False, None, status, seconds, detail)
        score = self.read_score(reply)
        if score is None:
            return Grade(False, None, "error", seconds, "judge: no score in the reply")
        share = min(score / self.config.max_score, 1.0)
        return Grade(share >= self.config.pass_share, f"{score:g}", "ok", seconds, score=share)

    def _prompt(self, problem: str, solution: str, reference: str) -> str:
        values = {"problem": problem, "solution": self._defuse(solution), "reference": reference}
        return _PLACEHOLDER.sub(lambda match: values[match.group(1)], self._rubric)

    def _defuse(self, text: str) -> str:
        """Break whatever the score pattern would read, so that a judge who quotes the text quotes no score."""
        text = self._score.sub("[removed]", text)
        return re.sub(r"<(?=\s{0,5}/?\s{0,5}score)", "(", text, flags=re.IGNORECASE)

    def read_score(self, reply: str) -> float | None:
        """The last score in the judge's reply, after its own thinking; None where there is none or it is too high."""
        found = self._score.findall(reply.rpartition("</think>")[2])
        if not found:
            return None
        try:
            score = float(found[-1])
        except ValueError:
            return None
        return score if 0 <= score <= self.config.max_score else None

    async def _ask(self, prompt: str) -> tuple[str | None, Any, str]:
        """(reply, "ok", "") or (None, status, detail); retries what may pass."""
        status, detail = "error", "judge: not asked"
        for attempt in range(self.config.retries + 1):
            if attempt:
                await asyncio.sleep(self.config.backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
            reply, status, detail, may_pass = await self._ask_once(prompt)
            if reply is not None or not may_pass:
                return reply, status, detail
        return None, status, detail

    async def _ask_once(self, prompt: str) -> tuple[str | None, Any, str, bool]:
        import aiohttp

        body = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": prompt.encode("utf-8", "replace").decode("utf-8")}],
            "temperature": self.config.temperature,
            "max_tokens": self.config.max_tokens,
        }
        key = os.environ.get(self.config.api_key_env, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        url = self.config.base_url.rstrip("/") + "/chat/completions"
        try:
            timeout = aiohttp.ClientTimeout(total=self.config.timeout_s)
            async with (
                aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
                session.post(url, json=body, allow_redirects=False) as answer,
            ):
                if answer.status != 200:
                    return None, "error", f"judge: HTTP {answer.status}", answer.status in _RETRIED_STATUS
                raw = b""
                while not answer.content.at_eof() and len(raw) < MAX_REPLY_BYTES:
                    raw += await answer.content.read(MAX_REPLY_BYTES - len(raw))
        except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
            return None, "timeout", f"judge: no reply in {self.config.timeout_s:g} s", True
        except (aiohttp.ClientError, OSError) as error:
            # Only the kind: an error's text may hold the request, and the request holds the key.
            return None, "error", f"judge: {type(error).__name__}", True
        content = _content_of(raw)
        if content is None:
            return None, "error", "judge: the reply is no chat completion", True
        return content, "ok", "", False


def _content_of(raw: bytes) -> str | None:
    try:
        content = json.loads(raw)["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return None
    return content if isinstance(content, str) else None
