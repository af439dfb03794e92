"""Asking an OpenAI-compatible endpoint, with retries."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
from dataclasses import dataclass
from typing import Any, Literal

from verl_ext.reward.judge.config import JudgeConfig

_RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
MAX_REPLY_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Reply:
    """What came of one question."""

    text: str | None
    """None where there is no reply; then `status` and `detail` say why."""
    status: Literal["ok", "timeout", "error"]
    detail: str
    requests: int
    """That were made, retries among them."""


class Endpoint:
    """Asks the judge's endpoints in turn; use it from one event loop."""

    def __init__(self, config: JudgeConfig) -> None:
        self._config = config
        self._urls = [url.rstrip("/") + "/chat/completions" for url in config.urls]
        self._first = itertools.count()

    def body(self, prompt: str) -> dict[str, Any]:
        """The request for a prompt."""
        return {
            **self._config.extra_body,
            "model": self._config.model,
            "messages": [{"role": "user", "content": prompt.encode("utf-8", "replace").decode("utf-8")}],
            "temperature": self._config.temperature,
            "max_tokens": self._config.max_tokens,
        }

    async def ask(self, body: dict[str, Any]) -> Reply:
        """The reply to a request; what may pass is retried, at the next endpoint where there are several."""
        status, detail = "error", "judge: not asked"
        first = next(self._first)
        for attempt in range(self._config.retries + 1):
            if attempt:
                await asyncio.sleep(self._config.backoff_s * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
            text, status, detail, may_pass = await self._ask_once(self._urls[(first + attempt) % len(self._urls)], body)
            if text is not None or not may_pass:
                return Reply(text, status, detail, attempt + 1)
        return Reply(None, status, detail, self._config.retries + 1)

    async def _ask_once(self, url: str, body: dict[str, Any]) -> tuple[str | None, Any, str, bool]:
        import aiohttp

        key = os.environ.get(self._config.api_key_env, "")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            timeout = aiohttp.ClientTimeout(total=self._config.timeout_s)
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
            return None, "timeout", f"judge: no reply in {self._config.timeout_s:g} s", True
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
