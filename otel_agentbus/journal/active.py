"""The segment that this process writes to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from .framing import OPENING, RECORD, frame, seed_of
from .owned import Segment
from .places import open_private

pwrite = os.pwrite


class ActiveSegment:
    """An open segment; each record is one write to the kernel, at its own offset."""

    __slots__ = ("_descriptor", "_place", "_seed", "number", "path", "segment")

    def __init__(self, path: Path, writer: str, number: int, segment: Segment) -> None:
        self.path = path
        self.number = number
        self.segment = segment
        self._place = f"{writer}/{number:08d}"
        self._seed = seed_of(path.name)
        self._descriptor = open_private(path, os.O_WRONLY | os.O_EXCL)

    @property
    def gone(self) -> bool:
        """Whether somebody deleted the file."""
        return os.fstat(self._descriptor).st_nlink == 0

    def open_with(self, opening: bytes) -> None:
        """Write the opening record."""
        self.append(opening, 0, OPENING)

    def append(self, data: bytes, items: int, kind: int = RECORD) -> str:
        """Write a record; gives its position.

        Raises:
            OSError: it could not be written; nothing of it is left.

        """
        segment = self.segment
        start, before = segment.size, segment.end
        record = frame(data, items, before, self._seed ^ start, kind)
        self._write(record, start)
        segment.size = end = start + len(record)
        segment.end = after = before + items
        return "%s/%010d/%016d" % (self._place, end, after)  # noqa: UP031 - as Place.position, and quicker

    def append_many(self, datas: Sequence[bytes]) -> str:
        """Write records of one item each with one write; gives the position of the last.

        Raises:
            OSError: they could not be written; nothing of them is left.

        """
        segment = self.segment
        start, before = segment.size, segment.end
        records, end = [], start
        for after, data in enumerate(datas, before):
            record = frame(data, 1, after, self._seed ^ end)
            records.append(record)
            end += len(record)
        self._write(b"".join(records), start)
        segment.size, segment.end = end, before + len(records)
        return "%s/%010d/%016d" % (self._place, end, segment.end)  # noqa: UP031 - as in append

    def _write(self, content: bytes, start: int) -> None:
        try:
            written = pwrite(self._descriptor, content, start)
            if written != len(content):  # the next write says why
                self._write_rest(content, start, written)
        except BaseException:
            os.ftruncate(self._descriptor, start)
            raise

    def _write_rest(self, record: bytes, start: int, written: int) -> None:
        view = memoryview(record)
        while written < len(record):
            more = os.pwrite(self._descriptor, view[written:], start + written)
            if more == 0:
                raise OSError("the disk took no more bytes")
            written += more

    def discard(self) -> None:
        """Delete the file that nothing could be written to."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            self.close()
