"""A thread that generates, and the only one that touches the model: requests, aborts and new weights go through it."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from verl_ext.rollout.generator import Generator
from verl_ext.rollout.requests import Generation, SamplingParams

logger = logging.getLogger(__name__)


class GenerationFailedError(RuntimeError):
    """Generation cannot go on; the message says why."""


class Answer(NamedTuple):
    """What a request got, and the version of the weights at that moment (see `GenerationLoop.version`)."""

    generation: Generation
    version: int | None


@dataclass
class _Command:
    function: Callable[[], Any]
    done: Future


class GenerationLoop:
    """Steps a `Generator` in a thread of its own while there is something to do.

    Commands (new requests, aborts, `call`) run between two steps, in the order in which they were given. So whatever a
    command does to the model happens before or after a forward pass, never during one.

    An error in a step reaches every waiting request, and everyone who asks for something afterwards.

    Args:
        generator: to step; nobody else may use it from now on.
        threads: of torch, for the computation.
        name: of the thread.
    """

    def __init__(self, generator: Generator, *, threads: int, name: str = "generation") -> None:
        self.version: int | None = None
        """Of the weights; to be set by a command."""
        self._generator = generator
        self._threads = threads
        self._commands: queue.SimpleQueue[_Command] = queue.SimpleQueue()
        self._waiting: dict[str, Future[Answer]] = {}
        self._held = False
        self._stopping = False
        self._error: GenerationFailedError | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, request_id: str, prompt_ids: Sequence[int], params: SamplingParams) -> Future[Answer]:
        """Queue a request; the future holds its answer, or the error that refused it or ended it."""
        answer = _future()

        def add() -> None:
            self._generator.add_request(request_id, prompt_ids, params)
            self._waiting[request_id] = answer

        def refused(added: Future) -> None:
            if added.exception() is not None:
                answer.set_exception(added.exception())

        self.call(add).add_done_callback(refused)
        return answer

    def abort(self, request_id: str | None = None) -> Future[list[str]]:
        """End a request, or all; they are answered with what they have. The future holds the ids of those ended."""

        def end() -> list[str]:
            aborted = self._generator.abort_request(request_id)
            self._answer(aborted)
            return [generation.request_id for generation in aborted]

        return self.call(end)

    def call(self, function: Callable[[], Any]) -> Future:
        """Run a function between two steps; the future holds its result or its error."""
        command = _Command(function, _future())
        self._commands.put(command)
        if not self._thread.is_alive():  # nobody else will look at it
            self._run_commands(wait=False)
        return command.done

    def hold(self) -> Future:
        """Take no step until `release`, from when the future is done."""
        return self.call(lambda: self._set_held(True))

    def release(self) -> Future:
        """Step again."""
        return self.call(lambda: self._set_held(False))

    def fail_requests(self, error: Exception) -> Future:
        """End all requests with an error."""
        return self.call(lambda: self._fail(error))

    def unfinished(self) -> Future[int]:
        """How many requests have not ended."""
        return self.call(lambda: len(self._waiting))

    def stop(self) -> None:
        """End the thread; requests that have not ended fail."""
        self._stopping = True
        self.call(lambda: None)  # wakes it
        self._thread.join()

    def _set_held(self, held: bool) -> None:
        self._held = held

    def _run(self) -> None:
        torch.set_num_threads(self._threads)
        while not self._stopping:
            busy = not self._held and self._error is None and self._generator.has_unfinished_requests()
            self._run_commands(wait=not busy)
            if busy and not self._held:
                self._step()
        self._break(GenerationFailedError("the generation server was stopped"))
        self._run_commands(wait=False)

    def _run_commands(self, *, wait: bool) -> None:
        """Run what has been asked for; with `wait`, until at least one thing was."""
        try:
            while True:
                command = self._commands.get(block=wait)
                wait = False
                self._run_command(command)
        except queue.Empty:
            return

    def _run_command(self, command: _Command) -> None:
        if self._error is not None:
            command.done.set_exception(self._error)
            return
        try:
            result = command.function()
        except Exception as error:  # noqa: BLE001  whoever gave the command gets it
            command.done.set_exception(error)
        else:
            command.done.set_result(result)

    def _step(self) -> None:
        try:
            finished = self._generator.step()
        except Exception as error:  # the door of the thread: nobody else would hear of it, and all would wait
            logger.exception("generation failed")
            self._break(GenerationFailedError(f"generation failed: {type(error).__name__}: {error}"))
        else:
            self._answer(finished)

    def _break(self, error: GenerationFailedError) -> None:
        self._error = error
        self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._generator.abort_request()
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            answer.set_exception(error)

    def _answer(self, generations: Sequence[Generation]) -> None:
        for generation in generations:
            self._waiting.pop(generation.request_id).set_result(Answer(generation, self.version))


def _future() -> Future:
    """A future that whoever waits for it cannot cancel: its result is set in any case."""
    future: Future = Future()
    future.set_running_or_notify_cancel()
    return future
