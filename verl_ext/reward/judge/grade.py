"""The grade that a judge gives to one response."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from verl_ext.reward.grading import Grade, Status
from verl_ext.reward.judge.config import JudgeConfig
from verl_ext.reward.judge.endpoint import Endpoint
from verl_ext.reward.judge.prompt import JudgePrompt, without_self_evaluation
from verl_ext.reward.judge.replies import Replies
from verl_ext.reward.math import extraction


@dataclass(frozen=True)
class _Vote:
    """What one reply says."""

    score: float | None
    """From 0 to `max_points`; None where there is none, and then `status` and `detail` say why."""
    status: Status = "ok"
    detail: str = ""
    seconds: float = 0.0
    requests: int = 0


class Judge:
    """Asks the judge; use it from one event loop."""

    def __init__(self, config: JudgeConfig) -> None:
        self.config = config
        self._endpoint = Endpoint(config)
        self._replies = Replies(config.cache_dir) if config.cache_dir else None
        self._prompts: dict[str, JudgePrompt] = {}
        self._slots = asyncio.Semaphore(config.concurrency)

    def prompt_of(self, data_source: str) -> JudgePrompt:
        """The prompt of a data source.

        Raises:
            ConfigError: it has none.
        """
        if data_source not in self._prompts:
            self._prompts[data_source] = JudgePrompt(self.config, data_source)
        return self._prompts[data_source]

    async def grade(
        self, problem: str, response: str, reference: str = "", *, rubric: Any = None, data_source: str = ""
    ) -> Grade:
        """Grade one response: the mean of the votes' scores, as a share of `max_points`.

        A judge that fails gives status `timeout` or `error`, never a wrong answer in silence.

        Args:
            problem: the problem's text.
            response: the model's response.
            reference: the row's gold, or empty.
            rubric: the row's, as `prompt.rubric_text` takes it.
            data_source: whose prompt is asked.

        Raises:
            ConfigError: the source has no prompt.
            UserError: the prompt asks for a rubric and the row has none.
        """
        prompt = self.prompt_of(data_source)
        text = extraction.after_think(response) if self.config.after_think else response
        if text is not None and self.config.strip_self_evaluation:
            text = without_self_evaluation(text)
        if text is None or not text.strip():
            return Grade(False, None, "no_answer", is_judged=True)
        body = self._endpoint.body(prompt.fill(problem, text.strip(), reference, rubric))
        votes = await asyncio.gather(*(self._vote(prompt, body, vote) for vote in range(self.config.votes)))
        seconds, requests = sum(vote.seconds for vote in votes), sum(vote.requests for vote in votes)
        failed = [vote for vote in votes if vote.score is None]
        if failed:
            return Grade(False, None, failed[0].status, seconds, failed[0].detail, is_judged=True, requests=requests)
        score = sum(vote.score for vote in votes) / len(votes)
        share = score / self.config.max_points
        return Grade(
            share >= self.config.pass_share, f"{score:g}", "ok", seconds, score=share, is_judged=True, requests=requests
        )

    async def _vote(self, prompt: JudgePrompt, body: dict[str, Any], vote: int) -> _Vote:
        kept = self._replies.find(body, vote) if self._replies else None
        if kept is not None and (score := prompt.read(kept)) is not None:
            return _Vote(score)
        async with self._slots:
            started = time.perf_counter()
            reply = await self._endpoint.ask(body)
            seconds = time.perf_counter() - started
        if reply.text is None:
            return _Vote(None, reply.status, reply.detail, seconds, reply.requests)
        score = prompt.read(reply.text)
        if score is not None and self._replies:
            await asyncio.to_thread(self._replies.keep, body, vote, reply.text)
        if score is None and self.config.missing_score == "zero":
            score = 0.0
        if score is None:
            return _Vote(None, "error", "judge: no score in the reply", seconds, reply.requests)
        return _Vote(score, "ok", "", seconds, reply.requests)
