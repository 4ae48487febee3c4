"""When commits were made: asked of the application's own resolver, in the background and one after the other."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import TypeAlias

from .attributes import number

#: When a commit was made: seconds since the epoch, or a datetime with a time zone; None where that is not known.
#: Asked in the background, once for each deployment that completed; it may take its time and may fail.
CommitTimes: TypeAlias = Callable[[str], "datetime | float | None"]

#: How many commits may wait for a resolver that is slow.
ROOM = 1_000

_log = logging.getLogger(__name__)


class Commits:
    """Asks the resolver, in a thread that is there only while there is something to ask."""

    def __init__(self, commit_times: CommitTimes, failed: Callable[[], None]) -> None:
        self._commit_times = commit_times
        self._failed = failed
        self._warned = False
        self.forget()

    def forget(self) -> None:
        """Start from nothing: in the child of a fork, which has neither the parent's thread nor its questions."""
        self._waiting: deque[tuple[str, Callable[[int], None]]] = deque()
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None

    def ask(self, commit_sha: str, then: Callable[[int], None]) -> None:
        """Have `then` called with the time of the commit, in nanoseconds, once that is known."""
        with self._condition:
            full = len(self._waiting) >= ROOM
            if not full:
                self._waiting.append((commit_sha, then))
            start = not full and self._thread is None
            if start:
                self._thread = threading.Thread(target=self._work, name="otel-agentbus-commits", daemon=True)
        if full:
            self._failed()
        elif start:
            self._start()

    def settle(self, timeout: float) -> bool:
        """Wait until everything is answered; whether it is. What a resolver itself waits for is not."""
        if self._thread is None:
            return True
        if self._thread is threading.current_thread():
            return False
        with self._condition:
            return self._condition.wait_for(lambda: self._thread is None, timeout)

    def _start(self) -> None:
        thread = self._thread
        try:
            if thread is not None:
                thread.start()
        except RuntimeError:  # the interpreter is ending, and starts none any more
            self._work()

    def _work(self) -> None:
        while True:
            with self._condition:
                if not self._waiting:
                    self._thread = None
                    self._condition.notify_all()
                    return
                commit_sha, then = self._waiting.popleft()
            self._answer(commit_sha, then)

    def _answer(self, commit_sha: str, then: Callable[[int], None]) -> None:
        try:
            made_ns = nanoseconds(self._commit_times(commit_sha))
            if made_ns is not None:
                then(made_ns)
        except BaseException:  # noqa: BLE001 - the resolver is the application's: its failure costs one measurement
            self._failed()
            if not self._warned:
                self._warned = True
                _log.warning("The time of a commit could not be found out; more of these are counted", exc_info=True)


def nanoseconds(made: object) -> int | None:
    """What a resolver said, in nanoseconds since the epoch."""
    if made is None:
        return None
    if isinstance(made, datetime):
        if made.tzinfo is None:
            raise ValueError(
                "A datetime without a time zone may be hours off: add one, or give seconds since the epoch"
            )
        return int(made.timestamp() * 1e9)
    seconds = number(made)
    if seconds is None:
        raise ValueError(f"{made.__class__.__name__} is no time: give a datetime, or seconds since the epoch")
    return int(seconds * 1e9)
