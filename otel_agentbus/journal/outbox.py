"""What a journal elsewhere does not take: kept on disk until it does, for the next process too."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct, error
from typing import NamedTuple

from .logs import writers
from .protocol import Position, Record
from .segments import SegmentJournal

_LENGTHS = Struct(">II")


class Parcel(NamedTuple):
    """A record for a journal elsewhere, with its key and its source."""

    key: str
    source: str
    data: bytes

    def pack(self) -> bytes:
        """The parcel as one record here."""
        key, source = (text.encode("utf-8", "surrogatepass") for text in self[:2])
        return b"".join((_LENGTHS.pack(len(key), len(source)), key, source, self.data))

    @classmethod
    def unpack(cls, packed: bytes) -> Parcel:
        """The parcel in a record.

        Raises:
            ValueError: there is none.

        """
        try:
            key, source = _LENGTHS.unpack_from(packed)
        except error:
            raise ValueError("this is no parcel") from None
        start = _LENGTHS.size
        texts = packed[start : start + key], packed[start + key : start + key + source]
        name, writer = (text.decode("utf-8", "surrogatepass") for text in texts)
        return cls(name, writer, packed[start + key + source :])


@dataclass(slots=True)
class Load:
    """Parcels that one process has kept, in its order; `opening` has its source and what describes it, if known."""

    parcels: list[Parcel]
    position: Position
    opening: tuple[str, bytes] | None
    #: How many parcels there were at first: who sends them may leave only those that were not taken.
    number: int = 0


class Outbox:
    """Parcels on disk, in a directory that the processes of one destination share.

    Args:
        directory: where; nothing is written, not even the directory, before the first parcel.
        max_bytes: the bound over the whole directory; beyond it the oldest are dropped and counted.
        max_age: seconds after which they are dropped and counted.
        opening: the source of this process, and what describes it.

    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        max_bytes: int,
        max_age: float | None,
        opening: Callable[[], tuple[str, bytes]],
    ) -> None:
        self.directory = Path(directory)
        self._journal = SegmentJournal(
            directory, max_bytes=max_bytes, max_age=max_age, opening=lambda: Parcel("", *opening()).pack()
        )
        self._reading: Iterator[Record] = iter(())
        self._ahead: Record | None = None
        self._openings: dict[str, tuple[str, bytes] | None] = {}
        self._unreadable = 0

    def keep(self, parcels: Sequence[Parcel]) -> None:
        """Keep these.

        Raises:
            OSError: they could not be written; none of them is kept.

        """
        self._journal.append_many([parcel.pack() for parcel in parcels])

    def adopt(self) -> int:
        """Take over what dead processes have kept; gives how many parcels these are.

        Raises:
            OSError: the directory cannot be read.

        """
        return self._journal.adopt()

    def take(self, most: int, most_bytes: int) -> Load | None:
        """The next parcels of one process, oldest first; None where there are none.

        They stay until they are done, which they are to be before others are taken.

        Raises:
            OSError: they cannot be read.

        """
        while self._find():
            load = self._loaded(most, most_bytes)
            if load.parcels:
                load.number = len(load.parcels)
                load.opening = self._opening_of(_writer(load.position))
                return load
            self.done(load)
        return None

    def done(self, load: Load) -> None:
        """These are where they were to go."""
        self._journal.ack(load.position)

    def _find(self) -> bool:
        """Have the next record ahead, if there is any."""
        if self._ahead is None:
            self._ahead = next(self._reading, None)
        if self._ahead is None and self._journal.pending:
            self._reading = self._journal.read()
            self._ahead = next(self._reading, None)
        return self._ahead is not None

    def _loaded(self, most: int, most_bytes: int) -> Load:
        """Parcels from the record ahead on, as far as they are of one process."""
        record, size = self._ahead, 0
        assert record is not None
        load = Load([], record.position, None)
        while (
            record is not None
            and _writer(record.position) == _writer(load.position)
            and len(load.parcels) < most
            and size < most_bytes
        ):
            size += len(record.data)
            load.position = record.position
            try:
                load.parcels.append(Parcel.unpack(record.data))
            except ValueError:  # somebody else's
                self._unreadable += 1
            record = next(self._reading, None)
        self._ahead = record
        return load

    def _opening_of(self, writer: str) -> tuple[str, bytes] | None:
        if writer not in self._openings:
            found = next((log.opening for log in writers(self.directory) if log.name == writer), None)
            self._openings.clear()  # they come one after the other
            self._openings[writer] = None
            if found is not None:
                try:
                    self._openings[writer] = Parcel.unpack(found)[1:]
                except ValueError:
                    pass
        return self._openings[writer]

    @property
    def pending(self) -> int:
        """How many parcels wait, those of dead processes that were taken over included."""
        return self._journal.pending

    @property
    def adopted(self) -> int:
        """How many were taken over from dead processes."""
        return self._journal.counts.adopted

    @property
    def dropped(self) -> dict[str, int]:
        """How many were lost, by reason: see `JournalCounts`; "unreadable" are records that are no parcels."""
        own = {"unreadable": self._unreadable} if self._unreadable else {}
        return {**self._journal.counts.dropped, **own}

    def close(self) -> None:
        """Let go of the files; what waits is for the next process."""
        self._journal.close()


def _writer(position: Position) -> str:
    return position.partition("/")[0]
