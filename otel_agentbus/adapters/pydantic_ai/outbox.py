"""An application's `publish` function, called in the order of events and unable to fail or to hold up a run."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from ..losses import losses

#: Takes an event's type and its data; may be a coroutine function, or give back anything that can be awaited.
Publish: TypeAlias = Callable[[str, dict[str, Any]], object]

#: How long one awaited publish may take before it is cancelled, and how long the end of a run waits for the last ones.
PATIENCE = 5.0
FAREWELL = 1.0
#: A call of a plain function that takes longer than this is counted: it holds up the run, and all else on the loop.
SLOW = 0.1
#: How many events may wait for an awaited publish; later ones are dropped.
ROOM = 1000

#: The workers that outlive their run; the event loop itself keeps no reference to its tasks.
_workers: set[asyncio.Task[None]] = set()


class Outbox:
    """The events of one run on their way to `publish`, in order.

    A plain function is called where the event happens, as a handler of the bus is; it must not block. What it gives
    back to be awaited (a coroutine function does) is awaited by a task beside the run, one event after the other.
    """

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self._waiting: deque[tuple[Awaitable[Any], contextvars.Context]] = deque()
        self._worker: asyncio.Task[None] | None = None
        self._last: tuple[str, dict[str, Any]] | None = None

    def keep_for_the_end(self, kind: str, data: dict[str, Any]) -> None:
        """Keep an event until `finish`: a cancelled run's own end comes before those of the calls in it."""
        self._last = (kind, data)

    async def finish(self, *, wait: bool) -> None:
        """The run is over, with all that was in it."""
        last, self._last = self._last, None
        if last is not None:
            self.put(*last)
        if wait:
            await self.flush()

    def put(self, kind: str, data: dict[str, Any]) -> None:
        """Publish one event; never raises."""
        began = time.perf_counter()
        try:
            answer = self._publish(kind, data)
            if inspect.isawaitable(answer):
                self._queue(answer)
        except Exception as error:  # noqa: BLE001 - the application's own function must not fail its run
            losses.count("publish failed", error)
        if time.perf_counter() - began > SLOW:
            losses.count("publish has held up the run: make it async, or hand over to a thread in it")

    def _queue(self, answer: Awaitable[Any]) -> None:
        if len(self._waiting) >= ROOM:
            _close(answer)
            losses.count("publish is too slow: an event was dropped")
            return
        self._waiting.append((answer, contextvars.copy_context()))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.get_running_loop().create_task(self._work(), context=contextvars.Context())
            _workers.add(self._worker)
            self._worker.add_done_callback(_workers.discard)

    async def flush(self) -> None:
        """Wait until everything is published, for a moment at most; what is left goes on beside."""
        if self._worker is not None and not self._worker.done():
            await asyncio.wait({self._worker}, timeout=FAREWELL)

    async def _work(self) -> None:
        try:
            while self._waiting:
                answer, context = self._waiting.popleft()
                await _deliver(answer, context)
        finally:
            while self._waiting:  # the loop is shutting down
                _close(self._waiting.popleft()[0])
                losses.count("publish was cut off by the end of the event loop")


async def _deliver(answer: Awaitable[Any], context: contextvars.Context) -> None:
    task = asyncio.get_running_loop().create_task(_awaited(answer), context=context)
    await asyncio.wait({task}, timeout=PATIENCE)
    if not task.done():
        task.cancel()
        losses.count("publish hung and was cancelled")
    elif not task.cancelled() and (error := task.exception()) is not None:
        losses.count("publish failed", error)


async def _awaited(answer: Awaitable[Any]) -> None:
    await answer


def _close(answer: Awaitable[Any]) -> None:
    if inspect.iscoroutine(answer):
        answer.close()
