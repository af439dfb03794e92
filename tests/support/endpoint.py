"""An OpenAI-compatible endpoint in a thread."""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager

from aiohttp import web


@contextmanager
def endpoint(handler, *, models=("served",)):
    """An OpenAI-compatible server on a free port whose completions `handler(path, body)` makes; yields (url, bodies)."""
    seen = []

    async def listed(_):
        return web.json_response({"data": [{"id": name} for name in models]})

    async def complete(request):
        body = await request.json()
        seen.append((request.path, body, dict(request.headers)))
        return handler(request.path, body)

    async def serve(ready, stop):
        app = web.Application()
        app.router.add_get("/v1/models", listed)
        app.router.add_post("/v1/completions", complete)
        app.router.add_post("/v1/chat/completions", complete)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        ready.set_result(site._server.sockets[0].getsockname()[1])
        await stop.wait()
        await runner.cleanup()

    loop = asyncio.new_event_loop()
    ready: asyncio.Future = loop.create_future()
    stop = asyncio.Event()
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(ready, stop),), daemon=True)
    thread.start()
    while not ready.done():
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{ready.result()}/v1", seen
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)


def reply(path, body, text="so \\boxed{5}", **usage):
    usage = {"prompt_tokens": usage.get("prompt_tokens"), "completion_tokens": 9}
    choice = {"message": {"content": text}} if path.endswith("chat/completions") else {"text": text}
    return web.json_response({"choices": [{**choice, "finish_reason": "stop"}], "usage": usage})
