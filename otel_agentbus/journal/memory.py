"""A journal that ends with its process: for tests, and where there is no disk."""

from __future__ import annotations

import os
import threading
import weakref
from bisect import bisect_right
from collections.abc import Iterator, Sequence

from .places import Place, new_name
from .protocol import JournalCounts, Position, Record


class MemoryJournal:
    """A journal in memory, without a bound. A forked child starts with an empty one."""

    def __init__(self) -> None:
        self._reset()
        _memories.add(self)

    def _reset(self) -> None:
        self.counts = JournalCounts()
        self._lock = threading.Lock()
        self._name = new_name()
        self._records: list[tuple[int, Record]] = []  # with its number
        self._next = 1
        self._items = 0

    def append(self, data: bytes, items: int = 1, key: str = "") -> Position:
        """Keep this record until it is acknowledged."""
        with self._lock:
            self._items += items
            position = Place(self._name, 1, self._next, self._items).position
            self._records.append((self._next, Record(position, bytes(data), items)))
            self._next += 1
            return position

    def append_many(self, datas: Sequence[bytes], keys: Sequence[str] = ()) -> Position:
        """Keep these records, of one item each; gives the position of the last of them."""
        if not datas:
            raise ValueError("no records were given, so there is no position")
        return [self.append(data) for data in datas][-1]

    def read(self, after: Position | None = None) -> Iterator[Record]:
        """What is not acknowledged, oldest first, up to what was there at the start of the iteration."""
        with self._lock:
            end = self._next
        at = 0 if after is None else Place.parse(after).end
        while True:
            with self._lock:
                index = bisect_right(self._records, at, key=lambda each: each[0])
                if index >= len(self._records) or self._records[index][0] >= end:
                    return
                at, record = self._records[index]
            yield record

    def ack(self, position: Position) -> None:
        """Everything up to that position is done."""
        place = Place.parse(position)
        with self._lock:
            if place.writer == self._name:
                del self._records[: bisect_right(self._records, place.end, key=lambda each: each[0])]

    def sync(self) -> None:
        """Nothing to do."""

    def adopt(self) -> int:
        """Nothing to take over."""
        return 0

    def finish(self) -> None:
        """Nothing of it is needed any more."""
        with self._lock:
            self._records.clear()

    def close(self) -> None:
        """Nothing to let go of."""

    @property
    def pending(self) -> int:
        """The items that are not acknowledged."""
        with self._lock:
            return sum(record.items for _, record in self._records)

    @property
    def bytes(self) -> int:
        """Of the records that are not acknowledged."""
        with self._lock:
            return sum(len(record.data) for _, record in self._records)


_memories: weakref.WeakSet[MemoryJournal] = weakref.WeakSet()


def _after_fork() -> None:
    for journal in tuple(_memories):
        journal._reset()


os.register_at_fork(after_in_child=_after_fork)
