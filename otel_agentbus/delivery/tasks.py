"""The task that calls an async handler on its own event loop, and the receipts for which `emit_async` waits."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from contextvars import Context, ContextVar
from types import CoroutineType
from typing import Self

from .queued import Queued

#: A task hands the loop back after this much work in one go: a burst of events must not make the agent late.
SLICE_SECONDS = 0.0005
#: How often a wait for handlers looks whether their loop has been closed.
CLOSED_LOOP_SECONDS = 0.1

_in_handler: ContextVar[bool] = ContextVar("agentbus_in_handler", default=False)


class AsTask(Queued):
    """Calls the handler on one event loop, one event after the other, in a task that lives as long as there is work.

    The loop is the one that runs where the handler subscribes, else where its first event is emitted; until there is
    one, events wait. An idle task would be waited for by programs that wait for all their tasks, and be reported by
    those that look for leaked ones: so there is none.
    """

    def _begin(self) -> None:
        super()._begin()
        self._loop = _running_loop()
        self._task: asyncio.Task[None] | None = None
        self._handling: object = None

    @property
    def busy(self) -> bool:
        """Whether an event is being handled."""
        return self._handling is not None

    def offer(self, event: object) -> None:
        """Queue the event for the loop; once the loop is closed, drop it."""
        if self._cancelled:
            return
        if self._loop is None:
            self._loop = _running_loop()
        elif self._loop.is_closed():
            self._offered.add()
            self.give_up()
            return
        receipts = _thread.receipts
        super().offer(event if receipts is None or receipts.event is not event else receipts.expect(self))

    def give_up(self) -> None:
        """If the loop has been closed: let go of what waits for it."""
        if self._loop is not None and self._loop.is_closed():
            self._discard()
            stuck, self._handling = self._handling, None
            if stuck is not None:
                self._abandoned += 1
                self._leaves(stuck)

    def _leaves(self, item: object) -> None:
        if isinstance(item, Receipt):
            item.settle()

    def _claim(self) -> bool:
        return self._loop is not None and super()._claim()

    def _wake(self) -> None:
        loop = self._loop
        if loop is None:
            return
        surroundings = Context()  # empty: a handler works for its subscriber, not under the span that emitted
        surroundings.run(_in_handler.set, True)
        wake = loop.call_soon if _running_loop() is loop else loop.call_soon_threadsafe
        try:
            wake(self._start, context=surroundings)
        except RuntimeError:
            self.give_up()

    def _start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._work(), name=f"agentbus {self.name}")
        self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._task is task:
            self._task = None
        if task.cancelled() or task.exception() is not None:  # the loop is being shut down
            self._discard()
            self._token.append(None)

    async def _work(self) -> None:
        slice_ends = time.monotonic() + SLICE_SECONDS
        while self._items or not self._rest():
            await self._handle_next()
            if time.monotonic() > slice_ends:
                await asyncio.sleep(0)
                slice_ends = time.monotonic() + SLICE_SECONDS

    async def _handle_next(self) -> None:
        item, handler = self._next()
        if handler is None:
            return
        self._handling = item
        event = item.event if isinstance(item, Receipt) else item
        try:
            result = handler(event)
            if isinstance(result, CoroutineType) or inspect.isawaitable(result):
                await result
            self.delivered += 1
        except Exception as exc:  # noqa: BLE001 - isolation: a failing handler must not take the next event with it
            self._report(event, exc)
        except BaseException as exc:
            if not isinstance(exc, asyncio.CancelledError) or _is_cancelled(asyncio.current_task()):
                self._abandoned += self._handling is item
                raise
            self._report(event, exc)  # what the handler waited for was cancelled, not the handler
        finally:
            self._handling = None
            self._leaves(item)


def _is_cancelled(task: asyncio.Task[object] | None) -> bool:
    return task is None or task.cancelling() > 0


class Receipt:
    """A queue item that says when its event has been handled or dropped."""

    __slots__ = ("_future", "event")

    def __init__(self, event: object, future: asyncio.Future[None]) -> None:
        self.event = event
        self._future = future

    def settle(self) -> None:
        """Say so; from any thread, and more than once if need be."""
        try:
            self._future.get_loop().call_soon_threadsafe(self._resolve)
        except RuntimeError:
            pass  # that loop is closed: nobody waits any more

    def _resolve(self) -> None:
        if not self._future.done():
            self._future.set_result(None)


class Receipts:
    """Collects, as a context, the deliveries that one event sets off in this thread as tasks."""

    def __init__(self, event: object) -> None:
        self.event = event
        self._loop = asyncio.get_running_loop()
        self._expected: dict[asyncio.Future[None], AsTask] = {}

    def __enter__(self) -> Self:
        self._outer, _thread.receipts = _thread.receipts, self
        return self

    def __exit__(self, *_: object) -> None:
        _thread.receipts = self._outer

    def expect(self, delivery: AsTask) -> Receipt:
        """A receipt to queue in place of the event."""
        future = self._loop.create_future()
        self._expected[future] = delivery
        return Receipt(self.event, future)

    async def settled(self) -> None:
        """Wait until every delivery has been handled or dropped.

        Inside an async handler, those that are busy are not waited for: they might be waiting for this very handler.
        """
        waiting = not _in_handler.get()
        pending = {future for future, delivery in self._expected.items() if waiting or not delivery.busy}
        while pending:
            _, pending = await asyncio.wait(pending, timeout=CLOSED_LOOP_SECONDS)
            for delivery in self._expected.values():
                delivery.give_up()


class _Thread(threading.local):
    receipts: Receipts | None = None


_thread = _Thread()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
