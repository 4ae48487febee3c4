"""A journal in files: segments of records in one directory, which processes share, each with a log of its own."""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic, time

from ..errors import ConfigurationError
from .active import ActiveSegment
from .aside import bytes_aside
from .framing import HEADER, LONGEST, RECORD, Gap, refuse_what_is_too_long
from .holdings import Holdings
from .owned import OwnedLog, Segment
from .places import Place, listing
from .protocol import JournalCounts, Position, Record
from .room import Room

MAX_BYTES = 64 << 20
_LOOK = 0.05  # seconds after which an append looks whether its file is still there


class SegmentJournal:
    """A journal in a directory. Nothing is written, not even the directory, before the first append.

    Args:
        directory: Where the files are; made, for this user only, where it is missing.
        max_bytes: The bound over the whole directory; where it is full the oldest segments are dropped and counted.
        max_age: Seconds after which a segment that nobody wrote to is dropped and counted; None: never.
        segment_bytes: When the next segment is begun; by default a sixteenth of `max_bytes`, 64 KiB to 4 MiB.
        opening: Gives the bytes that stand first in each segment; asked anew for each one.
        keep: Acknowledged segments stay until the bounds drop them.

    Raises:
        ConfigurationError: a bound is not positive.

    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        max_bytes: int = MAX_BYTES,
        max_age: float | None = None,
        segment_bytes: int | None = None,
        opening: Callable[[], bytes] | None = None,
        keep: bool = False,
    ) -> None:
        for name, bound in (("max_bytes", max_bytes), ("segment_bytes", segment_bytes), ("max_age", max_age)):
            if bound is not None and not bound > 0:
                raise ConfigurationError(f"{name} of a journal is {bound!r}: give a positive number.")
        self.directory = Path(directory).absolute()
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._segment_bytes = segment_bytes or min(max(max_bytes // 16, 64 << 10), 4 << 20, max_bytes)
        self._chunk = max(self._segment_bytes // 8, min(self._segment_bytes, 64 << 10))
        self._opening = opening
        self._keep = keep
        self._reset()
        _journals.add(self)

    def _reset(self) -> None:
        """Begin as a writer that has written nothing."""
        self._lock = threading.RLock()
        self._counts = JournalCounts()
        self._room = Room(self.directory, self._max_bytes, self._max_age, self._chunk, self._counts)
        self._holdings = Holdings(self.directory, self._room, self._counts, self._max_bytes // 16)
        self._own: OwnedLog | None = None
        self._active: ActiveSegment | None = None
        self._number = 0  # of the newest segment
        self._limit = 0  # the active segment's bytes up to which a record's data may begin without a look
        self._look_at = 0.0
        self._unsynced: set[Path] = set()

    def append(self, data: bytes, items: int = 1, key: str = "") -> Position:
        """Keep this record; once this returns, a SIGKILL of this process does not lose it.

        Raises:
            OSError: it could not be written; nothing of it will ever be read.

        """
        with self._lock:
            active = self._active
            if active is None or active.segment.size + len(data) > self._limit or monotonic() > self._look_at:
                active = self._prepare(HEADER + len(data))
            return active.append(data, items)

    def append_many(self, datas: Sequence[bytes], keys: Sequence[str] = ()) -> Position:
        """Keep these records, of one item each, with one write; gives the position of the last of them.

        They stand in one segment, so a caller that has very many gives them in parts.

        Raises:
            OSError: they could not be written; nothing of any of them will ever be read.
            ValueError: there are none.

        """
        if not datas:
            raise ValueError("no records were given, so there is no position")
        need = sum(map(len, datas)) + HEADER * len(datas)
        with self._lock:
            active = self._active
            if active is None or active.segment.size + need - HEADER > self._limit or monotonic() > self._look_at:
                active = self._prepare(need)
            return active.append_many(datas)

    def _prepare(self, need: int) -> ActiveSegment:
        """An active segment with room for so many bytes."""
        refuse_what_is_too_long(need - HEADER, min(LONGEST, self._max_bytes - HEADER))
        self._look()
        active = self._active
        if active is not None and active.segment.size + need - HEADER <= self._limit:
            return active
        if active is not None and active.segment.size + need > self._segment_bytes:
            self._rotate()
        opening = b"" if self._opening is None or self._active is not None else self._opening()
        left = self._make_room(need + len(opening) + HEADER)
        try:
            active = self._active or self._begin(opening)
        except FileNotFoundError:  # the directory was moved away
            if self._own is not None:
                self._lost(self._own)
            active = self._begin(opening)
        size = active.segment.size + need
        self._limit = max(size, min(self._segment_bytes, size + min(left, self._chunk))) - HEADER
        return active

    def _make_room(self, need: int) -> int:
        """Drop what is oldest, the active segment last; gives how many bytes are left beyond `need`."""
        active = None if self._own is None or self._active is None else (self._own.name, self._active.number)
        left = self._room.make(need, self._holdings.logs, active)
        if left < 0 and active is not None:
            self._rotate()
            left = self._room.make(need, self._holdings.logs, None)
        if left < 0:
            raise OSError(errno.ENOSPC, "other writers take all of the journal's bytes", str(self.directory))
        return left

    def _begin(self, opening: bytes) -> ActiveSegment:
        """Begin a segment, with the directory and the writer if they are not there."""
        own = self._own
        if own is None:
            own = self._own = self._holdings.start()
            self._number = 0
        number = self._number + 1
        segment = Segment(0, own.written, own.written)
        active = ActiveSegment(own.path(number), own.name, number, segment)
        try:
            if self._opening is not None:
                active.open_with(opening or self._opening())
        except BaseException:
            active.discard()
            raise
        self._number, own.segments[number], self._active = number, segment, active
        if self._keep and number == 1:  # what is kept must know in the end that nobody needs it
            own.reserve()
        if own.acked.finished:
            own.unfinish()
        return active

    def _rotate(self) -> None:
        """Let the active segment be; the next append begins another."""
        active, self._active, self._limit = self._active, None, 0
        if active is not None and self._own is not None:
            active.close()
            active.segment.written = time()
            self._own.written = active.segment.end
            self._unsynced.add(active.path)

    def read(self, after: Position | None = None) -> Iterator[Record]:
        """What is not acknowledged, oldest first, up to what was there at the start of the iteration.

        Writers come by birth. With `after`, older writers are left out: what `adopt()` took over since is not in it.

        Raises:
            ValueError: `after` is no position.
            OSError: a file cannot be read.

        """
        begin = None if after is None else Place.parse(after)
        return self._read(begin)

    def _read(self, begin: Place | None) -> Iterator[Record]:
        with self._lock:
            self._tidy()
            holdings = self._holdings
            plan = [
                (log, Place(log.name, number, segment.size, segment.end))
                for log in sorted(holdings.logs.values(), key=lambda log: log.name)
                for number, segment in sorted(log.segments.items())
                if begin is None or (log.name, number) >= begin[:2]
            ]
        for log, end in plan:
            for record in self._read_segment(log, begin, end):
                if holdings is not self._holdings:  # a forked child: the records are its parent's
                    return
                yield record

    def _read_segment(self, log: OwnedLog, begin: Place | None, end: Place) -> Iterator[Record]:
        number = end.segment
        with self._lock:
            if number not in log.segments or log.acked.segment > number:
                return
            start = log.begin(number)
            if begin is not None and begin[:2] == start[:2]:
                start = max(start, begin)
        try:
            for found, content in log.scan(start, end):
                if isinstance(found, Gap):
                    with self._lock:
                        log.note(number, found, content)
                elif found.kind == RECORD and not log.acked.covers(number, found.end):
                    yield Record(log.place(number, found).position, found.data, found.items)
        except FileNotFoundError:
            with self._lock:
                self._miss()

    def ack(self, position: Position) -> None:
        """Everything of that position's writer, up to it, is done and need not be kept.

        Raises:
            ValueError: this is no position.

        """
        place = Place.parse(position)
        with self._lock:
            log = self._holdings.logs.get(place.writer)
            if log is not None:
                self._ack(log, place)

    def _ack(self, log: OwnedLog, place: Place, *, finished: bool = False) -> None:
        for number in log.ack(place, keep=self._keep, finished=finished):
            if log is self._own and self._active is not None and self._active.number == number:
                self._rotate()
            log.delete(number)
        if log is not self._own and (finished or not log.waiting):
            self._holdings.done(log, keep=self._keep)

    def finish(self) -> None:
        """Nothing of the own log is needed any more; what is appended after this is, again."""
        with self._lock:
            if self._own is not None:
                self._rotate()
                self._ack(self._own, self._own.end(), finished=True)

    def adopt(self) -> int:
        """Take over the segments of dead writers; gives their items that are not acknowledged.

        Raises:
            OSError: the directory cannot be read.

        """
        with self._lock:
            self._tidy()
            return self._holdings.adopt(keep=self._keep)

    def sync(self) -> None:
        """Have what was appended on the disk itself.

        Raises:
            OSError: the disk failed.

        """
        with self._lock:
            unsynced, self._unsynced = self._unsynced, set()
            if self._active is not None:
                unsynced.add(self._active.path)
            descriptors = [each for each in map(_opened, (*unsynced, self.directory)) if each is not None]
        try:
            for descriptor in descriptors:
                os.fsync(descriptor)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def close(self) -> None:
        """Let go of files and locks; what is not acknowledged stays for the next process.

        The journal can be used again: it is then a new writer.
        """
        with self._lock:
            with suppress(OSError):  # what cannot be looked at is let go of all the same
                self._tidy()
            self._rotate()
            for log in tuple(self._holdings.logs.values()):
                if log.segments:
                    log.lock.release()
                else:
                    log.vanish()
            self._holdings.logs.clear()
            self._own = None

    @property
    def name(self) -> str | None:
        """Of this writer, once it has written."""
        return None if self._own is None else self._own.name

    @property
    def pending(self) -> int:
        """The items that are not acknowledged, of the own log and of adopted ones."""
        with self._lock:
            self._look_sometimes()
            return sum(log.left for log in self._holdings.logs.values())

    @property
    def bytes(self) -> int:
        """Of all segments in the directory, of what lies aside, too."""
        found = listing(self.directory)
        return bytes_aside(self.directory) + sum(
            size.bytes for files in found.values() for size in files.segments.values()
        )

    @property
    def counts(self) -> JournalCounts:
        """What was lost and taken over so far."""
        with self._lock:
            self._look_sometimes()
            return self._counts

    # What becomes of the files

    def _look_sometimes(self) -> None:
        if self._holdings.logs and monotonic() > self._look_at:
            with suppress(OSError):  # the directory cannot be read: what is known holds
                self._look()
                self._miss()

    def _tidy(self) -> None:
        """Miss what is gone, and drop what is too old."""
        self._look()
        self._miss()
        if self._max_age is not None:
            if self._active is not None and self._room.too_old(self._active.path.stat().st_mtime):
                self._rotate()
            active = None if self._own is None or self._active is None else (self._own.name, self._active.number)
            self._room.drop_old(listing(self.directory), self._holdings.logs, active)

    def _look(self) -> None:
        """Find out, cheaply, whether somebody deleted what this journal writes to, or says that it lives."""
        self._look_at = monotonic() + _LOOK
        if self._own is not None and self._active is not None and self._active.gone:
            self._lost(self._own)
        for log in tuple(self._holdings.logs.values()):
            if log.lock.gone:
                self._lost(log)

    def _miss(self) -> None:
        for log in self._holdings.miss():
            self._lost(log)

    def _lost(self, log: OwnedLog) -> None:
        if log is self._own:
            self._rotate()
            self._own = None
            self._unsynced.clear()
        self._holdings.lost(log)

    def _forget_parent(self) -> None:
        """In a forked child: the files and the records are the parent's."""
        if self._active is not None:
            self._active.close()
        for log in self._holdings.logs.values():
            log.lock.release()
        self._reset()


def _opened(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # dropped meanwhile, or never made
        return None


_journals: weakref.WeakSet[SegmentJournal] = weakref.WeakSet()


def _after_fork() -> None:
    for journal in tuple(_journals):
        journal._forget_parent()


os.register_at_fork(after_in_child=_after_fork)
