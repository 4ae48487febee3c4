"""How one request is answered: by a future, apart from the events."""

from __future__ import annotations

import asyncio
import inspect
import threading
from contextvars import copy_context

from otel_agentbus.errors import NoAnswer

from .handlers import Handler, is_async, name_of_handler


async def answer_of(responder: Handler, request: object, timeout: float | None) -> object:
    """What the responder returns or raises; `TimeoutError` when it takes longer. It may block, and even hang."""
    task = asyncio.ensure_future(_respond(responder, request))
    try:
        await asyncio.wait({task}, timeout=timeout)
        if not task.done():
            raise TimeoutError(f"{name_of_handler(responder)} has not answered within {timeout} s")
        if task.cancelled():
            raise NoAnswer(f"{name_of_handler(responder)} was cancelled before it answered")
        return task.result()
    finally:
        task.cancel()


async def _respond(responder: Handler, request: object) -> object:
    answer = responder(request) if is_async(responder) else await _in_a_thread(responder, request)
    return await answer if inspect.isawaitable(answer) else answer


def _in_a_thread(responder: Handler, request: object) -> asyncio.Future[object]:
    """Call it in a daemon thread; the loop's executor would wait at exit for one that hangs."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[object] = loop.create_future()
    context = copy_context()

    def run() -> None:
        answer, error = None, None
        try:
            answer = context.run(responder, request)
        except BaseException as exc:  # noqa: BLE001 - it is raised where the request was asked
            error = exc
        try:
            loop.call_soon_threadsafe(_settle, future, answer, error)
        except RuntimeError:
            pass  # that loop is closed: nobody waits any more

    threading.Thread(target=run, name=f"agentbus {name_of_handler(responder)}", daemon=True).start()
    return future


def _settle(future: asyncio.Future[object], answer: object, error: BaseException | None) -> None:
    if future.done():
        return  # the time was up
    if error is None:
        future.set_result(answer)
    elif isinstance(error, Exception) and not isinstance(error, StopIteration):
        future.set_exception(error)
    else:  # a future refuses StopIteration, and a thread's SystemExit must not end the loop
        future.set_exception(NoAnswer(f"the responder ended with {type(error).__name__}"))
