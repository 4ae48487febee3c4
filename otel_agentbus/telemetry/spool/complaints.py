"""Warnings that are due again and again: each kind is said at once, and then at most once per minute."""

from __future__ import annotations

import logging
import threading
import time

_log = logging.getLogger("otel_agentbus.spool")

#: Seconds between two warnings of one kind.
PERIOD_S = 60.0


class Complaints:
    """Says what goes wrong, without flooding a log; never raises."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._said: dict[str, float] = {}

    def say(self, kind: str, sentence: str, *arguments: object) -> None:
        """Log this warning, unless one of its kind was logged within the last minute."""
        now = time.monotonic()
        with self._lock:
            if now - self._said.get(kind, -PERIOD_S) < PERIOD_S:
                return
            self._said[kind] = now
        _log.warning(sentence, *arguments)

    def after_fork(self) -> None:
        """In the child: a lock that nobody holds."""
        self._lock = threading.Lock()
