"""What every journal can do, and what it counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeAlias

Position: TypeAlias = str
"""Where a record ends: opaque; positions of one writer are in the order of its records."""


class Record(NamedTuple):
    """One record as it was appended; `items` is how many things (spans, events) it stands for."""

    position: Position
    data: bytes
    items: int


class Journal(Protocol):
    """Records of bytes that are kept in order until they are acknowledged."""

    def append(self, data: bytes, items: int = 1, key: str = "") -> Position:
        """Keep this record; once this returns, a SIGKILL of this process does not lose it.

        Records of one key stay together and in order, where a journal has parts; one that has none takes no notice.

        Raises:
            OSError: it could not be written; nothing of it will ever be read.

        """
        ...

    def append_many(self, datas: Sequence[bytes], keys: Sequence[str] = ()) -> Position:
        """Keep these records, of one item each and at least one, all or none; gives the position of the last.

        With `keys`, one for each record, as in `append`.

        Raises:
            OSError: they could not be written; nothing of any of them will ever be read.

        """
        ...

    def read(self, after: Position | None = None) -> Iterator[Record]:
        """What is not acknowledged, oldest first, up to what was there at the start of the iteration."""
        ...

    def ack(self, position: Position) -> None:
        """Everything of that position's writer, up to it, is done and need not be kept."""
        ...

    def sync(self) -> None:
        """Have what was appended on the disk itself, so that a power loss does not lose it, either."""
        ...

    def close(self) -> None:
        """Let go of files and locks; what is not acknowledged stays for the next process."""
        ...


class KeyedJournal(Journal, Protocol):
    """A journal on many machines, in parts: it wants to know of each record its key, and the source that wrote it."""

    #: Tells such a journal from others.
    keyed: bool

    def append_many(self, datas: Sequence[bytes], keys: Sequence[str] = (), sources: Sequence[str] = ()) -> Position:
        """Keep these records; where that fails, some of them may have been written all the same.

        Raises:
            OSError: not all of them were written, as far as that is known.

        """
        ...


@dataclass(slots=True)
class JournalCounts:
    """What a journal lost or took over since it was made (in a forked child: since the fork).

    `dropped` counts items by reason: "full" (the byte bound), "age", "removed" (somebody deleted the files) and
    "corrupt" (damaged on the disk, where the number of items is known). `corrupt` counts damaged regions and
    `corrupt_bytes` their size; `torn_bytes` are ends of records that a dying process could not finish; `adopted` are
    the items taken over from dead writers, with those that were dropped at once: what was appended and adopted is
    acknowledged, dropped or pending. `unsaved_acks` are acknowledgements that could not be written: after a
    restart those records are read again.
    """

    dropped: Counter[str] = field(default_factory=Counter)
    corrupt: int = 0
    corrupt_bytes: int = 0
    torn_bytes: int = 0
    adopted: int = 0
    unsaved_acks: int = 0
