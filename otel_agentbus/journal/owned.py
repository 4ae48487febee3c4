"""One writer's log in the hands of this process: its own, or one that it took over from a dead writer."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from .acks import Ack, load_ack, reserve_ack, save_ack
from .aside import put_aside
from .framing import RECORD, Frame, Gap, scan, seed_of
from .locks import WriterLock
from .places import Files, Place, segment_name
from .protocol import JournalCounts


@dataclass(slots=True)
class Segment:
    """A file of records: its bytes, the writer's number of items at its start and at its end, and what is damaged.

    `written` is when it was last written (seconds since 1970), once it is closed. `lost` has, for each damaged region
    by its offset, the items before and after it. `last` is where the last record ends (not of a segment being written).
    """

    size: int
    start: int
    end: int
    written: float = 0.0
    last: int = sys.maxsize
    lost: dict[int, tuple[int, int]] = field(default_factory=dict)

    def left(self, acked: int) -> int:
        """How many of its items are neither done nor damaged, where so many of the writer's items are done."""
        left = max(0, self.end - max(self.start, acked))
        for first, last in sorted(self.lost.values()):  # they overlap where there was damage beside damage
            left -= max(0, last - max(first, acked))
            acked = max(acked, last)
        return left


def read_segment(path: Path, start: int, end: int | None = None) -> bytes:
    """The file's bytes from `start` (up to `end`).

    Raises:
        OSError: it cannot be read, or is gone.

    """
    with path.open("rb") as file:
        file.seek(start)
        return file.read(-1 if end is None else max(0, end - start))


class OwnedLog:
    """What this process knows of a writer whose lock it holds. Not thread-safe: the journal's lock guards it."""

    def __init__(
        self, directory: Path, name: str, lock: WriterLock, counts: JournalCounts, aside: int = 1 << 20
    ) -> None:
        self.directory = directory
        self.name = name
        self.lock = lock
        self.segments: dict[int, Segment] = {}
        self.acked = Ack()
        self.written = 0  # items, of closed segments
        self._counts = counts
        self._aside = aside

    def path(self, number: int) -> Path:
        """Of this segment."""
        return self.directory / segment_name(self.name, number)

    @property
    def left(self) -> int:
        """The items that are not acknowledged."""
        return sum(segment.left(self.acked.items) for segment in self.segments.values())

    @property
    def waiting(self) -> bool:
        """Whether it has a record that is not acknowledged."""
        return any(self._waits(number, segment) for number, segment in self.segments.items())

    def _waits(self, number: int, segment: Segment) -> bool:
        end = min(segment.size, segment.last)
        return end > 0 and not self.acked.covers(number, end)

    def load(self, files: Files, known: Mapping[int, Segment] | None = None) -> None:
        """Learn what a dead writer left: torn ends are cut, damage is counted and put aside.

        `known` is what this process knew of its segments already: damage that was counted is not counted again.
        """
        self.acked = load_ack(self.directory / f"{self.name}.ack")
        found: list[tuple[int, Gap, bytes]] = []
        for number, size in files.segments.items():
            try:
                found.extend(self._load(number, size.mtime))
            except FileNotFoundError:
                continue
        for number, before in (known or {}).items():
            if number in self.segments:
                segment = self.segments[number]
                segment.start, segment.end, segment.lost = before.start, before.end, before.lost
        self.written = max([self.acked.items, *(segment.end for segment in self.segments.values())])
        for number, gap, content in found:
            self.note(number, gap, content)

    def _load(self, number: int, written: float) -> list[tuple[int, Gap, bytes]]:
        """Learn what this segment has; its gaps, to be noted when the next segment's first number of items is known."""
        buffer = read_segment(self.path(number), 0)
        previous = self.segments.get(number - 1)
        items = previous.end if previous is not None else 0 if number == 1 else None
        found = tuple(scan(buffer, seed_of(segment_name(self.name, number)), 0, items))
        frames = [each for each in found if isinstance(each, Frame)]
        records = [each for each in frames if each.kind == RECORD]
        gaps = [each for each in found if isinstance(each, Gap)]
        if frames and gaps[:1] != list(found[:1]):
            if previous is not None:
                previous.end = frames[0].before  # what is lost at its end is lost there
            items = frames[0].before
        start = items if items is not None else frames[0].before if frames else self.acked.items
        ends = [each.before + each.items if isinstance(each, Frame) else each.last for each in found]
        end = max([start, *(each for each in ends if each is not None)])
        self.segments[number] = Segment(len(buffer), start, end, written, records[-1].end if records else 0)
        return [(number, gap, buffer[gap.start : gap.end]) for gap in gaps]

    def note(self, number: int, gap: Gap, content: bytes) -> None:
        """Count this damage, once, and keep it aside; a torn end is cut."""
        segment = self.segments.get(number)
        if segment is None or gap.start in segment.lost:
            return
        if gap.torn:
            self._counts.torn_bytes += gap.end - gap.start
            os.truncate(self.path(number), gap.start)
            segment.size = gap.start
            return
        first = segment.start if gap.first is None else max(gap.first, segment.start)
        last = segment.end if gap.last is None else gap.last
        before = segment.left(self.acked.items)
        segment.lost[gap.start] = (first, max(first, last))
        self._counts.corrupt += 1
        self._counts.corrupt_bytes += gap.end - gap.start
        lost = before - segment.left(self.acked.items)
        if lost:
            self._counts.dropped["corrupt"] += lost
        put_aside(self.directory, f"{segment_name(self.name, number)}-{gap.start:010d}.bin", content, self._aside)

    def begin(self, number: int) -> Place:
        """From where this segment is not acknowledged."""
        if number == self.acked.segment:
            return Place(self.name, number, self.acked.end, self.acked.items)
        return Place(self.name, number, 0, self.segments[number].start)

    def scan(self, begin: Place, end: Place) -> Iterator[tuple[Frame | Gap, bytes]]:
        """The records and gaps between these places of a segment, and the bytes of each gap."""
        start, reached, items = begin.end, begin.end, begin.items
        buffer = read_segment(self.path(begin.segment), start, end.end)
        for found in scan(buffer, seed_of(segment_name(self.name, begin.segment)), start, items):
            reached = found.end
            if isinstance(found, Frame):
                items = found.before + found.items
                yield found, b""
                continue
            if found.last is None:
                found = found._replace(last=end.items)
            yield found._replace(torn=False), buffer[found.start - start : found.end - start]
            items = found.last or items
        if reached < end.end:  # somebody cut the file
            yield Gap(reached, end.end, False, items, end.items), b""

    def place(self, number: int, found: Frame) -> Place:
        """Where this record ends."""
        return Place(self.name, number, found.end, found.before + found.items)

    def ack(self, place: Place, *, keep: bool, finished: bool = False) -> list[int]:
        """Everything up to there is done; gives the numbers of the segments that nobody needs any more."""
        if (place.segment, place.end) >= (self.acked.segment, self.acked.end):
            self.acked = Ack(self.acked.generation + 1, place.segment, place.end, place.items, finished)
            self.save()
        if keep:
            return []
        return [
            number
            for number, segment in self.segments.items()
            if number < place.segment or (number == place.segment and not self._waits(number, segment))
        ]

    def end(self) -> Place:
        """Beyond all that it has."""
        if not self.segments:
            return Place(self.name, self.acked.segment, self.acked.end, self.written)
        number = max(self.segments)
        return Place(self.name, number, self.segments[number].size, self.written)

    def save(self) -> None:
        """Write how far it is done; where that fails, it is counted, and those records are read again some day."""
        try:
            save_ack(self.directory / f"{self.name}.ack", self.acked)
        except OSError:
            self._counts.unsaved_acks += 1

    def reserve(self) -> None:
        """Have room for saying how far it is done; where there is none, the disk may have some by then."""
        with suppress(OSError):
            reserve_ack(self.directory / f"{self.name}.ack")

    def unfinish(self) -> None:
        """It goes on, after all."""
        self.acked = self.acked._replace(generation=self.acked.generation + 1, finished=False)
        self.save()

    def forget(self, number: int) -> int:
        """The segment is gone, or goes: how many items that were not done go with it."""
        segment = self.segments.pop(number, None)
        return 0 if segment is None else segment.left(self.acked.items)

    def delete(self, number: int) -> int:
        """Delete this segment; gives the items that were not done."""
        self.path(number).unlink(missing_ok=True)
        return self.forget(number)

    def vanish(self) -> None:
        """Delete what is left of its files, the lock last."""
        for number in tuple(self.segments):
            self.delete(number)
        (self.directory / f"{self.name}.ack").unlink(missing_ok=True)
        self.lock.remove()
