"""Runs one attempt after the other in a thread of its own, so that the one who asks never waits beyond a deadline."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")

#: How long an attempt may take to notice that it has been cut short, in seconds.
_GRACE = 0.25


class Overdue(Exception):
    """No result came in time, or the attempts have been closed."""


class Attempts:
    """One thread, started with the first attempt; at most one attempt is ever under way, also if it is stuck."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[_Attempt[object] | None] = SimpleQueue()
        self._idle = threading.Lock()
        self._current: _Attempt[object] | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._end = weakref.finalize(self, self._jobs.put, None)
        self._end.atexit = False

    def run(self, call: Callable[[], T], timeout: float, cut: Callable[[], None] | None = None) -> T:
        """What the call gives within this many seconds, else Overdue; `cut` ends a call that takes longer.

        An attempt that cannot be ended stays in the thread, and the next one waits for it.
        """
        deadline = time.monotonic() + timeout
        if self._closed or not self._idle.acquire(timeout=timeout):
            raise Overdue("closed" if self._closed else "the attempt before this one is still under way")
        attempt: _Attempt[T] = _Attempt(call, self._idle.release)
        self._current = attempt  # type: ignore[assignment]  # what it gives is of no interest there
        self._begin(attempt)
        if self._closed:  # meanwhile
            attempt.answered.set()
        try:
            return self._waited(attempt, timeout, deadline, cut)
        finally:
            self._current = None

    def _waited(self, attempt: _Attempt[T], timeout: float, deadline: float, cut: Callable[[], None] | None) -> T:
        if attempt.answered.wait(max(0.0, deadline - time.monotonic())):
            return attempt.result()
        if cut is not None:
            cut()
            attempt.answered.wait(_GRACE)
        attempt.answered.set()
        raise Overdue(f"no complete answer within {timeout:g} s")

    def close(self) -> None:
        """Let the one who waits go, begin nothing any more, and end the thread once its call returns."""
        self._closed = True
        if (current := self._current) is not None:
            current.answered.set()
        self._end()

    def _begin(self, attempt: _Attempt[T]) -> None:
        if self._thread is None or not self._thread.is_alive():
            thread = threading.Thread(target=_work, args=(self._jobs,), name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the interpreter is leaving and starts no thread any more
                attempt.perform()
                return
            self._thread = thread
        self._jobs.put(attempt)  # type: ignore[arg-type]


class _Attempt(Generic[T]):
    def __init__(self, call: Callable[[], T], done: Callable[[], None]) -> None:
        self._call: Callable[[], T] | None = call
        self._done = done
        self._given: list[T] = []
        self._raised: Exception | None = None
        #: Set when there is a result, or when nobody waits for one any more.
        self.answered = threading.Event()

    def perform(self) -> None:
        call, self._call = self._call, None  # its batch is not to live until the next one comes
        try:
            if call is not None:
                self._given.append(call())
        except Exception as error:  # noqa: BLE001 - raised again where the result is wanted
            self._raised = error
        except BaseException as error:  # noqa: BLE001 - one that would end the thread ends nothing elsewhere
            self._raised = RuntimeError(f"{type(error).__name__}: {error}")
        finally:
            del call
            self._done()
            self.answered.set()

    def result(self) -> T:
        if self._raised is not None:
            raise self._raised
        if not self._given:
            raise Overdue("closed")
        return self._given[0]


def _work(jobs: SimpleQueue[_Attempt[object] | None]) -> None:
    while (attempt := jobs.get()) is not None:
        attempt.perform()
