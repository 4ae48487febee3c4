"""Room in a journal's directory: its bound of bytes and of age, over the segments of every writer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .acks import load_ack
from .aside import bytes_aside
from .framing import Frame, scan, seed_of
from .locks import WriterLock
from .owned import OwnedLog, read_segment
from .places import Files, listing, segment_name
from .protocol import JournalCounts


class _Clock:
    """The time since 1970, which does not jump forward: a clock that is put right makes nothing old."""

    def __init__(self) -> None:
        self._wall, self._steady = time.time(), time.monotonic()

    def now(self) -> float:
        return min(time.time(), self._wall + time.monotonic() - self._steady)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A segment that may be dropped; `written` is when it, or an older one of its writer, was."""

    written: float
    writer: str
    number: int
    bytes: int
    last: bool


class Room:
    """Drops the oldest segments where there is no room, or where they are too old.

    What was not acknowledged in them is counted by whoever owns it: by us for our own and adopted logs and for dead
    writers', by a living writer when it misses its segment.
    """

    def __init__(
        self, directory: Path, max_bytes: int, max_age: float | None, reserve: int, counts: JournalCounts
    ) -> None:
        self._directory = directory
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._reserve = reserve
        self._counts = counts
        self._clock = _Clock()

    def make(self, need: int, owned: Mapping[str, OwnedLog], active: tuple[str, int] | None) -> int:
        """Make room for so many bytes, without the `active` segment; gives how many bytes are left beyond them.

        A negative number says that there is no room, even without what may be dropped.
        """
        found = listing(self._directory)
        self.drop_old(found, owned, active)
        total = sum(size.bytes for files in found.values() for size in files.segments.values())
        total += bytes_aside(self._directory)
        others = sum(1 for name, files in found.items() if files.segments and name not in owned)
        # What other writers may add before they look themselves is kept free, as far as that is a small part.
        bound = self._max_bytes - min(others * self._reserve, self._max_bytes // 4)
        if total + need <= bound or need > bound:
            return bound - need - total
        for candidate in _oldest_first(found):
            if (candidate.writer, candidate.number) != active and self._drop(candidate, owned, "full"):
                del found[candidate.writer].segments[candidate.number]
                total -= candidate.bytes
            if total + need <= bound:
                break
        return bound - total - need

    def drop_old(self, found: dict[str, Files], owned: Mapping[str, OwnedLog], active: tuple[str, int] | None) -> None:
        """Drop the segments that were last written longer ago than they may have been."""
        if self._max_age is None:
            return
        for candidate in _oldest_first(found):
            if not self.too_old(candidate.written):
                return
            if (candidate.writer, candidate.number) != active and self._drop(candidate, owned, "age"):
                del found[candidate.writer].segments[candidate.number]

    def too_old(self, written: float) -> bool:
        """Whether what was written then (seconds since 1970) is older than it may be."""
        return self._max_age is not None and self._clock.now() - written > self._max_age

    def _drop(self, candidate: _Candidate, owned: Mapping[str, OwnedLog], reason: str) -> bool:
        """Delete this segment, if it may be; whether it is gone."""
        log = owned.get(candidate.writer)
        if log is not None:
            lost = log.delete(candidate.number)
        else:
            lost_by_dead = self._drop_of_other(candidate)
            if lost_by_dead is None:
                return False
            lost = lost_by_dead
            self._counts.adopted += lost
        if lost:
            self._counts.dropped[reason] += lost
        return True

    def _drop_of_other(self, candidate: _Candidate) -> int | None:
        """The items that go with it, as far as nobody else counts them; None where it must stay."""
        path = self._directory / segment_name(candidate.writer, candidate.number)
        lock = WriterLock.take(self._directory / f"{candidate.writer}.lock")
        if lock is None:
            if candidate.last:
                return None
            path.unlink(missing_ok=True)
            return 0
        try:
            items = self._left(candidate.writer, path)
            path.unlink(missing_ok=True)
            if not (self._directory / segment_name(candidate.writer, candidate.number + 1)).exists():
                (self._directory / f"{candidate.writer}.ack").unlink(missing_ok=True)
                lock.remove()
            return items
        finally:
            lock.release()

    def _left(self, writer: str, path: Path) -> int:
        """The items of this segment that are not acknowledged."""
        acked = load_ack(self._directory / f"{writer}.ack").items
        try:
            found = scan(read_segment(path, 0), seed_of(path.name))
        except FileNotFoundError:
            return 0
        frames = [each for each in found if isinstance(each, Frame)]
        return sum(each.items for each in frames if each.before + each.items > acked)


def _oldest_first(found: Mapping[str, Files]) -> list[_Candidate]:
    """What may be dropped; a writer's segments stay in their order, even where the clock jumped back between them."""
    candidates = []
    for writer, files in found.items():
        written, last = float("inf"), True
        for number, size in reversed(files.segments.items()):
            written = min(written, size.mtime)
            candidates.append(_Candidate(written, writer, number, size.bytes, last))
            last = False
    return sorted(candidates, key=lambda each: (each.written, each.writer, each.number))
