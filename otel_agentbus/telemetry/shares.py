"""Where the time of a run went: the share of each row, its place as a bar, and what took most of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .outline import Row

#: When something went on, in nanoseconds: from, to.
Interval = tuple[int, int]
#: What is shorter than this share of a cell is no part of a bar.
_SLIVER = 0.5


class Part(NamedTuple):
    """What everything of one name took of a run, without what went on inside of it."""

    name: str
    rows: int
    share: float


class Shares:
    """The times of one tree at a moment, as shares of its root's."""

    def __init__(self, root: Row, now_ns: int) -> None:
        self._root = root
        self._now_ns = now_ns
        self._from, self._to = self._interval(root)
        self._whole = self._to - self._from

    def of(self, row: Row) -> float | None:
        """How much of the root's time the row took, from 0 to 1; None where the root took none."""
        start, end = self._within(row)
        return (end - start) / self._whole if self._whole else None

    def bar(self, row: Row, width: int, own: str, other: str) -> str:
        """The row's time as a bar below its root's, in `own` where nothing in the tree went on inside of it."""
        if row.kind == "moment" or not self._whole:
            return ""
        is_leaf = all(child.kind == "moment" for child in row.children)
        cells = [" "] * width
        scale = width / self._whole
        start, end = self._within(row)
        first = min(round((start - self._from) * scale), width - 1)
        last = max(round((end - self._from) * scale), first + 1)
        cells[first:last] = (own if is_leaf else other) * (last - first)
        for start, end in () if is_leaf else self._own(row):
            if (end - start) * scale >= _SLIVER:
                first, last = round((start - self._from) * scale), round((end - self._from) * scale)
                cells[first:last] = own * (last - first)
        return "".join(cells).rstrip()

    def largest(self, number: int) -> list[Part]:
        """What took most of the time by itself, the largest first. What went on at once counts once under one name."""
        spent: dict[str, list[Interval]] = {}
        rows: dict[str, int] = {}
        for row in descendants(self._root):
            if row.kind != "moment":
                name = row.name if row.kind == "llm" else f"{row.kind} {row.name}"
                spent.setdefault(name, []).extend(self._own(row))
                rows[name] = rows.get(name, 0) + 1
        parts = [
            Part(name, rows[name], sum(end - start for start, end in _merged(found)) / self._whole)
            for name, found in spent.items()
            if self._whole
        ]
        return sorted((part for part in parts if part.share), key=lambda part: -part.share)[:number]

    def _interval(self, row: Row) -> Interval:
        return row.started_ns, row.started_ns + round(row.seconds(self._now_ns) * 1e9)

    def _within(self, row: Row) -> Interval:
        start, end = self._interval(row)
        start = min(max(start, self._from), self._to)
        return start, max(min(end, self._to), start)

    def _own(self, row: Row) -> Iterator[Interval]:
        """When nothing inside of it went on."""
        at, until = self._within(row)
        inside = [self._within(child) for child in row.children if child.kind != "moment"]
        for start, end in _merged(inside):
            if start > at:
                yield at, min(start, until)
            at = max(at, end)
        if until > at:
            yield at, until


def descendants(root: Row) -> Iterator[Row]:
    """The row and everything below it, each before what is below it."""
    waiting = [root]
    while waiting:
        row = waiting.pop()
        yield row
        waiting.extend(reversed(row.children))


def _merged(intervals: Iterable[Interval]) -> Iterator[Interval]:
    """The same times without overlaps, in their order."""
    known: Interval | None = None
    for start, end in sorted(intervals):
        if known is not None and start <= known[1]:
            known = known[0], max(known[1], end)
            continue
        if known is not None:
            yield known
        known = start, end
    if known is not None:
        yield known
