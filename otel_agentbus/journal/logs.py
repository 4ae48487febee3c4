"""A writer's log seen from outside: read without owning it, or claimed once its writer is dead."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from .acks import load_ack
from .framing import OPENING, RECORD, Frame, Gap, scan, seed_of
from .locks import WriterLock, held
from .owned import OwnedLog, read_segment
from .places import Files, Place, files_of, listing, segment_name
from .protocol import JournalCounts, Position, Record

_CHUNK = 1 << 16  # bytes of a segment that are read at a time: very many logs may be read side by side


class WriterLog:
    """What one writer, living or dead, has in a directory. Nothing is changed by looking."""

    def __init__(self, directory: Path, name: str, known: Iterable[int] = ()) -> None:
        self.directory = directory
        self.name = name
        self._known = tuple(known)
        self._damaged: dict[tuple[int, int], int] = {}

    def __repr__(self) -> str:
        return f"WriterLog({str(self.directory)!r}, {self.name!r})"

    @property
    def alive(self) -> bool:
        """Whether somebody holds its lock: its writer, or who claimed or adopted it."""
        return held(self.directory / f"{self.name}.lock")

    @property
    def finished(self) -> bool:
        """Whether nothing of it is needed any more."""
        return load_ack(self.directory / f"{self.name}.ack").finished

    @property
    def acked(self) -> Position | None:
        """Up to where it is acknowledged."""
        ack = load_ack(self.directory / f"{self.name}.ack")
        return Place(self.name, ack.segment, ack.end, ack.items).position if ack.generation else None

    @property
    def opening(self) -> bytes | None:
        """The opening record of its first segment that has one."""
        for number in self._numbers():
            first = next(self._scan(number, 0), None)
            if isinstance(first, Frame) and first.kind == OPENING:
                return first.data
        return None

    @property
    def bytes(self) -> int:
        """Of its segments."""
        return sum(size.bytes for size in self._files().segments.values())

    @property
    def damaged(self) -> int:
        """How many damaged regions were met so far while reading."""
        return len(self._damaged)

    def read(self, after: Position | None = None) -> Iterator[Record]:
        """Its records, acknowledged or not, up to what is completely written; openings are left out.

        Raises:
            ValueError: `after` is no position.
            OSError: a file cannot be read.

        """
        begin = None if after is None else Place.parse(after)
        return self._read(begin)

    def _read(self, begin: Place | None) -> Iterator[Record]:
        numbers = self._numbers()
        for number in numbers:
            if begin is not None and number < begin.segment:
                continue
            start = begin.end if begin is not None and number == begin.segment else 0
            for found in self._scan(number, start):
                if isinstance(found, Gap):
                    if number != numbers[-1] or not found.torn:
                        self._damaged[number, found.start] = found.end - found.start
                elif found.kind == RECORD:
                    place = Place(self.name, number, found.end, found.before + found.items)
                    yield Record(place.position, found.data, found.items)

    def _scan(self, number: int, start: int) -> Iterator[Frame | Gap]:
        """What stands in a segment from there on, read in chunks; one that ends in a gap is read anew, with more."""
        name, length = segment_name(self.name, number), _CHUNK
        seed, ended = seed_of(name), False
        while not ended:
            try:
                buffer = read_segment(self.directory / name, start, start + length)
            except FileNotFoundError:  # dropped meanwhile
                return
            ended, until, reached = len(buffer) < length, start + len(buffer), start
            for found in scan(buffer, seed, start):
                if isinstance(found, Gap) and found.end == until and not ended:
                    break
                yield found
                reached = found.end
            length = _CHUNK if reached > start else length * 2
            start = reached

    def _files(self) -> Files:
        """What it has now; a look at the whole directory for each of thousands of writers would take minutes."""
        files = files_of(self.directory, self.name, self._known)
        if not files.segments:  # it has dropped all that was known
            files = listing(self.directory).get(self.name, Files())
        self._known = tuple(files.segments)
        return files

    def _numbers(self) -> list[int]:
        return list(self._files().segments)

    def claim(self) -> Claim | None:
        """Own this log, to acknowledge, finish or remove it; None while its writer lives or somebody else owns it.

        Raises:
            OSError: its files cannot be locked or read.

        """
        try:
            lock = WriterLock.take(self.directory / f"{self.name}.lock")
        except FileNotFoundError:  # the directory is gone
            return None
        if lock is None:
            return None
        try:
            return Claim(self, lock)
        except BaseException:
            lock.release()
            raise


class Claim:
    """A dead writer's log in exclusive hands until it is released; torn ends are cut, damage is put aside."""

    def __init__(self, log: WriterLog, lock: WriterLock) -> None:
        self.log = log
        self.counts = JournalCounts()
        self._owned = OwnedLog(log.directory, log.name, lock, self.counts)
        self._owned.load(log._files())

    @property
    def pending(self) -> int:
        """The items that are not acknowledged."""
        return self._owned.left

    def ack(self, position: Position) -> None:
        """Everything up to that position is done; its files stay.

        Raises:
            ValueError: this is no position of this writer.

        """
        place = Place.parse(position)
        if place.writer != self.log.name:
            raise ValueError(f"{position!r} is a position of another writer than {self.log.name}")
        self._owned.ack(place, keep=True)

    def finish(self) -> None:
        """Nothing of it is needed any more; its files stay."""
        self._owned.ack(self._owned.end(), keep=True, finished=True)

    def remove(self) -> None:
        """Delete its files."""
        self._owned.vanish()

    def release(self) -> None:
        """Give it up: somebody else may claim it."""
        if self._owned.segments:
            self._owned.lock.release()
        else:
            self._owned.vanish()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


def writers(directory: str | os.PathLike[str]) -> list[WriterLog]:
    """The writers that have something in this directory, by birth; none where there is no directory.

    Raises:
        OSError: the directory cannot be read.

    """
    path = Path(directory).absolute()
    return [WriterLog(path, name, files.segments) for name, files in listing(path).items()]
