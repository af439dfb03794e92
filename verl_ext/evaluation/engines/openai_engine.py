"""Generation through an OpenAI-compatible endpoint: vLLM's or SGLang's server, llama.cpp, or a service.

A chat goes to `/chat/completions` as messages, which the server renders; any other prompt goes to `/completions` as
text, which the server reads with its beginning of text, as our own tokenizer does.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import aiohttp

from verl_ext.errors import ConfigError, UserError
from verl_ext.evaluation.config import EvaluationConfig
from verl_ext.evaluation.engines import Completion, Request, cut_at_stop, openai_params
from verl_ext.evaluation.engines.as_finished import as_finished
from verl_ext.evaluation.prompts import PromptBuilder

DEFAULT_AT_ONCE = 64
RETRIES = 5
BACKOFF_S = 1.0
"""Wait before the first retry; doubles each time, with jitter."""
_RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


class OpenAIEngine:
    """Asks an endpoint for one response a request.

    Raises:
        UserError: the endpoint does not answer, or serves another model.
    """

    def __init__(self, config: EvaluationConfig, builder: PromptBuilder) -> None:
        self._config = config
        self._builder = builder
        self._url = config.base_url.rstrip("/")
        self._at_once = config.max_num_seqs or DEFAULT_AT_ONCE
        self._loop = asyncio.new_event_loop()
        self._warned = False
        self._session: aiohttp.ClientSession | None = None
        try:
            self._model = self._loop.run_until_complete(self._open())
        except BaseException:
            self.close()
            raise

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """See `Engine`."""
        return as_finished(self._loop, requests, self._ask, at_once=self._at_once)

    def close(self) -> None:
        """See `Engine`."""
        if self._session is not None:
            self._loop.run_until_complete(self._session.close())
        self._loop.close()

    async def _open(self) -> str:
        """Connect; returns the name of the model there."""
        key = os.environ.get(self._config.api_key_env, "")
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=self._config.request_timeout_s),
            headers={"Authorization": f"Bearer {key}"} if key else {},
            connector=aiohttp.TCPConnector(limit=self._at_once),
        )
        listed = await self._send("GET", "/models", None)
        served = [model.get("id") for model in listed.get("data", []) if isinstance(model, dict)]
        wanted = self._config.served_model
        if wanted is not None or len(served) == 1:
            return wanted or served[0]
        if self._config.model in served:
            return self._config.model
        raise ConfigError("served_model", given=wanted, expected=f"one of those at {self._url}: {', '.join(served)}")

    async def _ask(self, request: Request) -> Completion:
        body = {
            "model": self._model,
            **openai_params(request.params, self._builder.stop, extra=self._config.extra_params),
        }
        if request.prompt.messages:
            body["messages"] = [dict(message) for message in request.prompt.messages]
            if arguments := self._builder.template_arguments():
                body["chat_template_kwargs"] = arguments
            reply = await self._send("POST", "/chat/completions", body)
        else:
            body["prompt"] = request.prompt.text
            reply = await self._send("POST", "/completions", body)
        return self._completion(request, reply)

    def _completion(self, request: Request, reply: dict[str, Any]) -> Completion:
        try:
            choice, usage = reply["choices"][0], reply["usage"]
            text = _text_of(choice)
            tokens = int(usage["completion_tokens"])
        except (KeyError, IndexError, TypeError, ValueError):
            raise UserError(f"base_url: {self._url} answered with something that is no completion") from None
        self._compare_lengths(request, usage.get("prompt_tokens"))
        reason = "length" if choice.get("finish_reason") == "length" else "stop"
        return Completion(request.request_id, cut_at_stop(text, self._builder.stop), tokens, reason)

    def _compare_lengths(self, request: Request, theirs: int | None) -> None:
        """Another number of prompt tokens than ours means another tokenizer or template: say so, once."""
        if theirs is None or request.prompt.token_ids is None or self._warned:
            return
        ours = len(request.prompt.token_ids)
        if theirs != ours:
            self._warned = True
            print(
                f"base_url: the endpoint reads {theirs} tokens in the prompt of {request.request_id}, we {ours}: "
                "it has another tokenizer or chat template than tokenizer=...",
                file=sys.stderr,
            )

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """The reply as JSON; what may pass is tried again.

        Raises:
            UserError: it did not pass.
        """
        failure = ""
        for attempt in range(RETRIES):
            if attempt:
                await asyncio.sleep(BACKOFF_S * 2 ** (attempt - 1) * random.uniform(0.5, 1.5))
            try:
                async with self._session.request(method, self._url + path, json=body, allow_redirects=False) as reply:
                    if reply.status == 200:
                        return await reply.json(content_type=None)
                    failure = f"HTTP {reply.status}: {' '.join((await reply.text()).split())[:300]}"
                    if reply.status not in _RETRIED_STATUS:
                        break
            except (TimeoutError, asyncio.TimeoutError):  # two classes before Python 3.11
                failure = f"no reply in {self._config.request_timeout_s:g} s"
            except (aiohttp.ClientError, OSError, ValueError) as error:
                # Only the kind: an error's text may hold the request, and the request holds the key.
                failure = type(error).__name__
            if path == "/models" and attempt == 1:
                break  # before anything is under way nobody wants to wait
        hint = ""
        if body is not None and any(
            name in failure for name in ("top_k", "min_p", "repetition_penalty", "stop_token_ids")
        ):
            hint = "; extra_params=false leaves those parameters out"
        raise UserError(f"base_url: {self._url}{path} does not answer ({failure}){hint}; what is finished is kept")


def _text_of(choice: dict[str, Any]) -> str:
    if "text" in choice:
        return choice["text"]
    message = choice["message"]
    thoughts = message.get("reasoning_content") or message.get("reasoning")
    content = message.get("content") or ""
    return f"<think>{thoughts}</think>{content}" if thoughts else content
