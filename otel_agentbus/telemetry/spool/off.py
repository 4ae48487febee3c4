"""The spool that is switched off: a few spans wait in memory for the next attempt, and go when the process goes."""

from __future__ import annotations

import errno
from typing import Final

from otel_agentbus.journal import MemoryJournal, Position

#: Bytes that may wait.
MAX_BYTES: Final = 16 * 1024 * 1024


class SpoolOff(OSError):
    """There is no spool, and no memory left in its place."""


class Off(MemoryJournal):
    """A small journal in memory; what is in it at the end is lost, and counted."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        super().__init__()
        self._max_bytes = min(max_bytes, MAX_BYTES)
        self._closed = False

    def append(self, data: bytes, items: int = 1, key: str = "") -> Position:
        """Keep it, if there is room; raises SpoolOff."""
        if self._closed or self.bytes + len(data) > self._max_bytes:
            raise SpoolOff(errno.ENOBUFS, "the spool is off")
        return super().append(data, items)

    def close(self) -> None:
        """Lose what is left."""
        self._closed = True
        left = self.pending
        self.finish()
        if left:
            self.counts.dropped["off"] += left
