"""A bounded queue in front of a handler, and the thread that empties it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque

from .handlers import Handler, Report, Tally, Target

#: How long a thread without work waits for some before it ends; the next event starts a new one.
IDLE_SECONDS = 30.0


class Queued(ABC):
    """A bounded queue with one consumer, who runs only while there is work; every loss is counted.

    No lock is taken. The right to consume is a token: whoever offers an event and finds it lying there takes it and
    wakes the consumer, so a burst costs one wake-up, and there are never two consumers.
    """

    def __init__(self, target: Target, report: Report, *, name: str, size: int, keep_oldest: bool) -> None:
        self.name = name
        self._target = target
        self._report = report
        self._size = size
        self._keep_oldest = keep_oldest
        self._cancelled = False
        self._retired = False
        #: How many calls returned.
        self.delivered = 0
        self._begin()

    def _begin(self) -> None:
        self._items: deque[object] = deque()
        self._token: deque[None] = deque([None])
        self._offered = Tally()
        self._taken = 0
        self._abandoned = 0

    @property
    def dropped(self) -> int:
        """How many events were offered and will never be handled to their end."""
        offered, waiting = self._offered.value, len(self._items)
        return max(0, offered - waiting - self._taken) + self._abandoned

    @property
    def resting(self) -> bool:
        """Whether nothing waits and nothing is being handled."""
        return not self._items and bool(self._token)

    def offer(self, event: object) -> None:
        """Queue the event, and wake the consumer if it rests."""
        if self._cancelled:
            return
        self._offered.add()
        items = self._items
        if len(items) >= self._size and not self._room_for(event):
            return
        items.append(event)
        if self._token and self._claim():
            self._wake()

    def cancel(self) -> None:
        """Handle nothing any more; what waits is dropped, and counted."""
        self._cancelled = True
        self._discard()

    def retire(self) -> None:
        """Handle what waits, then end."""
        self._retired = True

    def after_fork(self) -> None:
        """Start afresh in a forked child: what waits is the parent's to handle."""
        self._begin()

    @abstractmethod
    def _wake(self) -> None:
        """Make the consumer run; the token has been taken for it."""

    def _leaves(self, item: object) -> None:  # noqa: B027 - only some queues have somebody to tell
        """An item has left the queue, handled or not."""

    def _room_for(self, item: object) -> bool:
        if self._keep_oldest:
            self._leaves(item)
            return False
        try:
            self._leaves(self._items.popleft())
        except IndexError:
            pass  # the consumer was quicker: there is room
        return True

    def _claim(self) -> bool:
        try:
            self._token.pop()
        except IndexError:
            return False
        return True

    def _rest(self) -> bool:
        """Put the token back; false if work came in meanwhile and is still this consumer's to do."""
        self._token.append(None)
        return not (self._items and self._claim())

    def _next(self) -> tuple[object, Handler | None]:
        """The next item and who handles it; nobody, if it was dropped or cancelled or its handler is gone."""
        try:
            item = self._items.popleft()
        except IndexError:
            return None, None
        self._taken += 1
        handler = None if self._cancelled else self._target()
        if handler is None:
            self._abandoned += 1
            self._leaves(item)
        return item, handler

    def _discard(self) -> None:
        while self._items:
            try:
                self._leaves(self._items.popleft())
            except IndexError:
                return


class InThread(Queued):
    """Calls the handler in one daemon thread of its own: it may block, and even hang."""

    def _begin(self) -> None:
        super()._begin()
        self._thread: threading.Thread | None = None
        self._woken = threading.Lock()
        self._woken.acquire()
        self._watchers: deque[threading.Event] = deque()

    def cancel(self) -> None:
        """Handle nothing any more, and end the thread."""
        super().cancel()
        if self._thread is not None and self._claim():
            self._woken.release()

    def drained(self, timeout: float | None) -> bool:
        """Wait until nothing waits and nothing is being handled; inside the handler itself there is no waiting."""
        if self.resting or self._thread is threading.current_thread():
            return True
        watcher = threading.Event()
        self._watchers.append(watcher)
        return self.resting or watcher.wait(timeout)

    def _wake(self) -> None:
        if self._thread is not None:
            self._woken.release()
            return
        self._thread = threading.Thread(target=self._work, name=f"agentbus {self.name}", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter is ending, or the system has no threads left
            self._thread = None
            self._discard()
            self._token.append(None)

    def _work(self) -> None:
        while True:
            while self._items:
                self._handle_next()
            if not self._rest():
                continue
            while self._watchers:
                self._watchers.popleft().set()
            if self._wait():
                continue
            self._thread = None
            if self._rest():
                return
            self._thread = threading.current_thread()

    def _wait(self) -> bool:
        """Wait for work; false when it is time to end, and the token is this thread's."""
        if self._woken.acquire(timeout=0 if self._cancelled or self._retired else IDLE_SECONDS):
            return True
        if self._claim():
            return False
        self._woken.acquire()  # somebody has taken the token: they are about to release this
        return True

    def _handle_next(self) -> None:
        event, handler = self._next()
        if handler is None:
            return
        try:
            handler(event)
        except BaseException as exc:  # noqa: BLE001 - isolation: the thread is ours, nobody stands above it
            self._report(event, exc)
        else:
            self.delivered += 1
