"""The Recorder: writes each event to a journal as it happens, and counts what it could not keep."""

from __future__ import annotations

import errno
import logging
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias
from weakref import WeakSet

from ..events import Event
from .keys import Keys
from .records import record_of

if TYPE_CHECKING:
    from ..journal import Journal, Position

_log = logging.getLogger("otel_agentbus.recording")

#: One event as bytes; for a journal in parts, with its key and its source.
_Record: TypeAlias = tuple[bytes, str, str]
#: How many events may wait for `flush`.
WAITING = 65_536
#: The longest write of `flush`, but for a single event that is longer: the emitters may have to wait for it.
_WRITE_EVENTS, _WRITE_BYTES = 512, 1 << 18
_QUIET_S = 60.0
_REASONS = {
    errno.ENOSPC: "disk full",
    errno.EDQUOT: "disk full",
    errno.EFBIG: "disk full",
    errno.EACCES: "not allowed",
    errno.EPERM: "not allowed",
    errno.EROFS: "not allowed",
    errno.ENOENT: "no directory",
    errno.ENOTDIR: "no directory",
    errno.ECONNREFUSED: "no answer",
    errno.ECONNRESET: "no answer",
    errno.ETIMEDOUT: "no answer",
}


class Recorder:
    """Writes down each event that it is called with; it never raises, and counts what it could not keep.

    With `sync="event"` the event is with the kernel when the call returns: a process that is killed loses none. With
    "batch" it is collected, and `flush()`, called in the background, writes all that there is. In the child of a fork
    nothing is left of what the parent had collected.
    """

    def __init__(self, journal: Journal, sync: Literal["event", "batch"] = "batch", *, waiting: int = WAITING) -> None:
        self.journal = journal
        self._at_once = sync == "event"
        self._most = waiting
        self._keyed = bool(getattr(journal, "keyed", False))
        self._renew()
        _recorders.add(self)

    def _renew(self) -> None:
        #: How many events are in the journal.
        self.written = 0
        #: How many are not, by reason.
        self.failed: Counter[str] = Counter()
        #: Of the last event that was written.
        self.position: Position | None = None
        self._waiting: deque[Event] = deque()
        self._lock = threading.RLock()  # a signal may be handled by emitting
        self._flushing = threading.RLock()  # as above
        self._warned: float | None = None
        self._closed = False
        self._keys = Keys()

    def __call__(self, event: Event) -> None:
        """Write the event down, or collect it for `flush`."""
        if self._closed:
            self._fail("closed")
        elif self._at_once:
            self._append(self._record_of(event))
        elif len(self._waiting) < self._most:
            self._waiting.append(event)
        else:
            self._fail("memory full")

    @property
    def waiting(self) -> int:
        """How many events are collected and not written."""
        return len(self._waiting)

    def flush(self) -> bool:
        """Write all that was collected until now; whether nothing of it failed."""
        before = self.failed.total()
        with self._flushing:
            left = len(self._waiting)  # not for ever, where others go on emitting
            while left > 0:
                left -= self._flush_some(min(left, _WRITE_EVENTS))
        return self.failed.total() == before

    def _flush_some(self, most: int) -> int:
        """Write so many at the most with one write; gives how many they were."""
        taken: list[Event] = []
        try:
            records: list[_Record] = []
            size = 0
            while len(taken) < most and size < _WRITE_BYTES and self._waiting:
                taken.append(self._waiting.popleft())
                records.append(self._record_of(taken[-1]))
                size += len(records[-1][0])
            if records:
                self._append_all(records)
        except BaseException:  # an interrupt: twice in the journal is once when it is read, and not at all is lost
            self._waiting.extendleft(reversed(taken))
            raise
        return len(taken) or most

    def mark(self, position: Position | None = None) -> None:
        """Remember that of the events up to here (or of all that are written) the spans are delivered or spooled."""
        position = self.position if position is None else position
        if position is not None:
            self._careful(self.journal.ack, position)

    def finish(self) -> bool:
        """At a clean end: write what was collected, and say that nobody has to recover anything of this."""
        self._closed = True
        done = self.flush()
        finish = getattr(self.journal, "finish", None)
        self._careful(self.mark if finish is None else finish)
        self._careful(self.journal.close)
        return done

    def close(self) -> bool:
        """At an end that is not clean: write what was collected; what was not marked can be recovered."""
        self._closed = True
        done = self.flush()
        self._careful(self.journal.close)
        return done

    def health(self) -> dict[str, Any]:
        """How many events were written, wait, and could not be written, by reason."""
        return {"written": self.written, "waiting": self.waiting, "failed": dict(self.failed)}

    def _record_of(self, event: Event) -> _Record:
        if not self._keyed:
            return record_of(event), "", ""
        with self._lock:
            return record_of(event), self._keys.key_of(event), event.source or ""

    def _write(self, records: list[_Record]) -> Position:
        datas, keys, sources = map(list, zip(*records, strict=True))
        if not self._keyed:
            return self.journal.append_many(datas)
        journal: Any = self.journal
        position: Position = journal.append_many(datas, keys, sources)
        return position

    def _append_all(self, records: list[_Record]) -> None:
        """Write these at once; where that cannot be, one by one, so that each is written or counted for itself."""
        try:
            position = self._write(records)
        except Exception as error:  # noqa: BLE001 - as in _append, which says why
            left: Sequence[int] | None = getattr(error, "left", None)
            if isinstance(error, OSError) and left is not None:  # it says which: asking for each again would take long
                self.written += len(records) - len(left)
                self._fail(_reason(error), len(left))
                return
            for record in records:
                self._append(record)
        else:
            self._note(position, len(records))

    def _append(self, record: _Record) -> None:
        try:
            position = self._write([record]) if self._keyed else self.journal.append(record[0])
        except OSError as error:
            self._fail(_reason(error))
        except Exception:  # noqa: BLE001 - a journal may be anything, and must not reach the agent
            self._fail("error")
        else:
            self._note(position, 1)

    def _note(self, position: Position, number: int) -> None:
        with self._lock:
            self.written += number
            if self.position is None or position > self.position:  # threads come here in any order
                self.position = position

    def _careful(self, function: Callable[..., object], *args: object) -> None:
        try:
            function(*args)
        except Exception:  # noqa: BLE001 - as in _append; what is not marked is sent again, and that is no loss
            self._warn("The journal could not be marked or closed")

    def _fail(self, reason: str, number: int = 1) -> None:
        with self._lock:
            self.failed[reason] += number
        self._warn(f"Events could not be written to the journal ({reason}; {self.failed.total()} so far)")

    def _warn(self, sentence: str) -> None:
        now = time.monotonic()
        if self._warned is None or now - self._warned > _QUIET_S:
            self._warned = now
            _log.warning(sentence, exc_info=sys.exc_info()[0] is not None)


def _reason(error: OSError) -> str:
    return _REASONS.get(error.errno or 0, "input/output error")


_recorders: WeakSet[Recorder] = WeakSet()


def _after_fork() -> None:
    for recorder in list(_recorders):
        recorder._renew()


os.register_at_fork(after_in_child=_after_fork)
