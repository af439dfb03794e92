"""Many requests at once from one asyncio loop, as an ordinary iterator."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

from verl_ext.evaluation.engines import Completion, Request


def as_finished(
    loop: asyncio.AbstractEventLoop,
    requests: Sequence[Request],
    ask: Callable[[Request], Awaitable[Completion]],
    *,
    at_once: int,
) -> Iterator[Completion]:
    """Run `ask` for every request, `at_once` at a time; yields in the order in which they are finished.

    The first error ends all others and is raised.
    """
    waiting = iter(requests)
    running: set[asyncio.Future[Completion]] = set()
    try:
        while True:
            for request in waiting:
                running.add(asyncio.ensure_future(ask(request), loop=loop))
                if len(running) >= at_once:
                    break
            if not running:
                return
            done, running = loop.run_until_complete(asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED))
            for task in done:
                yield task.result()
    finally:
        for task in running:
            task.cancel()
        if running:
            loop.run_until_complete(asyncio.gather(*running, return_exceptions=True))
