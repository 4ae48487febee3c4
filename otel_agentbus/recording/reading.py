"""What a journal tells: each writer's opening and events, and the events of all writers in the order of their time."""

from __future__ import annotations

import heapq
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import UnreadableEvent
from ..events import Event
from .opening import Opening, is_opening
from .records import read_record

if TYPE_CHECKING:
    from ..journal import Claim, Position, WriterLog

_log = logging.getLogger("otel_agentbus.recording")

#: How often a journal that is followed is looked at.
POLL_S = 0.1


class Told(NamedTuple):
    """One event of a journal: where it stands, and whether a block had emitted it."""

    position: Position
    event: Event
    by_block: bool


class Recorded:
    """What one writer has written: one process (or one child of a fork), from its opening on."""

    def __init__(self, log: WriterLog) -> None:
        self._log = log
        #: How many of its records were no events, so far.
        self.strange = 0
        self._opening: Opening | None = None

    @property
    def name(self) -> str:
        """The writer's name in its directory."""
        return self._log.name

    @property
    def opening(self) -> Opening | None:
        """Who wrote this; None where that is not known."""
        if self._opening is None:
            self._opening = Opening.read(self._log.opening)
        return self._opening

    @property
    def source(self) -> str:
        """The source of its events, or the writer's name where there is no opening."""
        return self.name if self.opening is None else self.opening.source

    @property
    def alive(self) -> bool:
        """Whether its process still writes."""
        return self._log.alive

    @property
    def finished(self) -> bool:
        """Whether it came to a clean end, or was recovered: nothing of it needs to be sent."""
        return self._log.finished

    @property
    def marked(self) -> Position | None:
        """Up to where the spans of its events are delivered or spooled."""
        return self._log.acked

    def claim(self) -> Claim | None:
        """Take over what a dead process left; None while it is alive, or where somebody else has."""
        return self._log.claim()

    def records(self, after: Position | None = None) -> Iterator[Told]:
        """Its events with their positions, in its own order; what cannot be read is counted and left out."""
        try:
            for record in self._log.read(after):
                if is_opening(record.data):
                    continue
                try:
                    event, by_block = read_record(record.data)
                except UnreadableEvent:
                    self.strange += 1
                    continue
                yield Told(record.position, event, by_block)
        except OSError as error:
            _log.warning("The journal of %s cannot be read to its end: %s", self.name, error)

    def events(self, after: Position | None = None) -> Iterator[Event]:
        """Its events, in its own order."""
        return (told.event for told in self.records(after))

    def number(self) -> int:
        """How many records it has now; they are counted, and not read."""
        try:
            return sum(1 for _ in self._log.read())
        except OSError:
            return 0

    @property
    def unreadable(self) -> int:
        """How many records that are no events, and damaged places on the disk, were met so far."""
        return self.strange + self._log.damaged

    def begins_ns(self) -> int | None:
        """The time of its first event; None where there is none."""
        first = next(Recorded(self._log).events(), None)
        return None if first is None else first.time_ns or 0


def sources(directory: str | Path) -> list[Recorded]:
    """The writers of this journal, oldest first; none where there is no journal."""
    from ..journal import writers

    return [Recorded(log) for log in writers(directory)]


def read_events(
    directory: str | Path,
    *,
    follow: bool = False,
    since_ns: int | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Event]:
    """The events of all writers by their time, each writer's in its own order; every one of them is `replayed`.

    Args:
        directory: the journal; one that does not exist has no events.
        follow: go on with what is written later, also by new writers, until `stop` is set.
        since_ns: leave out what happened before.
        stop: ends the reading.

    """
    stop = stop or threading.Event()
    reached: dict[str, Position | None] = {}
    seen: dict[str, Recorded] = {}
    over: set[str] = set()
    while True:
        found = [seen.setdefault(source.name, source) for source in sources(directory) if source.name not in over]
        gone = {source.name for source in found if follow and not source.alive}  # before it is read to its end
        for source, told in merged(found, reached):
            if stop.is_set():
                return
            reached[source.name] = told.position
            if since_ns is None or (told.event.time_ns or 0) >= since_ns:
                yield told.event
        over |= gone
        if not follow or stop.wait(POLL_S):
            break
    unreadable = sum(source.unreadable for source in seen.values())
    if unreadable:
        _log.warning("%d records of the journal %s cannot be read and were left out", unreadable, directory)


def merged(found: list[Recorded], reached: dict[str, Position | None] | None = None) -> Iterator[tuple[Recorded, Told]]:
    """The events of these writers by their time, each after where it was reached; a file is opened when its time comes.

    An event without a time stands where the one before it does.
    """
    reached = reached or {}
    begins = ((0 if source.name in reached else source.begins_ns(), n) for n, source in enumerate(found))
    waiting: list[tuple[int, int, Told | None]] = [
        (at_ns, number, None) for at_ns, number in begins if at_ns is not None
    ]
    reading: dict[int, Iterator[Told]] = {}
    heapq.heapify(waiting)
    while waiting:
        time_ns, number, told = waiting[0]
        if told is None:
            reading[number] = found[number].records(reached.get(found[number].name))
        else:
            yield found[number], told
        told = next(reading[number], None)
        if told is None:
            heapq.heappop(waiting)
            del reading[number]
        else:
            heapq.heapreplace(waiting, (told.event.time_ns or time_ns, number, told))
