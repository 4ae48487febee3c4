"""How a record stands in a segment: a marker, lengths and checksums, so that damage is found and stepped over."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple
from zlib import crc32

MARKER = b"\xf1AJ\x9a"
RECORD = 0
OPENING = 1
LONGEST = 1 << 30

# marker, kind, length of the data, items, items of this writer before this record, checksum of the data
_HEAD = Struct("<4sBIIQI")
_SUM = Struct("<I")
HEADER = _HEAD.size + _SUM.size
_pack_head = _HEAD.pack
_pack_sum = _SUM.pack


class Frame(NamedTuple):
    """A record that is whole; `start` and `end` are its offsets in the file."""

    start: int
    end: int
    kind: int
    items: int
    before: int
    data: bytes


class Gap(NamedTuple):
    """Bytes that are no record. `torn`: the beginning of a record at the very end, as a dying writer leaves it.

    `first` and `last` are the writer's number of items before and after the gap, where they are known.
    """

    start: int
    end: int
    torn: bool
    first: int | None
    last: int | None


def seed_of(name: str) -> int:
    """What the checksums of this segment start from: bytes of another segment are no record here."""
    return crc32(name.encode())


def frame(data: bytes, items: int, before: int, start: int, kind: int = RECORD) -> bytes:
    """The record as it stands in a segment; `start` is the segment's seed ^ the record's offset.

    The offset is part of the checksum: the copy of a record within another record's data is none.
    """
    head = _pack_head(MARKER, kind, len(data), items, before, crc32(data))
    return head + _pack_sum(crc32(head, start)) + data


def refuse_what_is_too_long(length: int, longest: int = LONGEST) -> None:
    """Raises OSError (EFBIG) for a record that no segment, or no journal of this bound, can take."""
    if length > longest:
        raise OSError(errno.EFBIG, f"a record of {length} bytes is longer than the journal may be ({longest})")


def scan(buffer: bytes, seed: int, offset: int = 0, before: int | None = None) -> Iterator[Frame | Gap]:
    """The records in these bytes, which stand at `offset` in their file, and the gaps between them.

    `before` is the writer's number of items before them, where it is known.
    """
    at, bad, size = 0, -1, len(buffer)
    last: int | None = None  # items up to here, in a gap
    while at < size:
        head = _head(buffer, at, seed ^ (offset + at))
        if head is None:
            if bad < 0 and _may_be_torn(buffer, at):
                break
            bad, last = at if bad < 0 else bad, None
            found = buffer.find(MARKER, at + 1)
            at = found if found >= 0 else size
            continue
        kind, length, items, earlier, checksum = head
        data = buffer[at + HEADER : at + HEADER + length]
        if len(data) < length:
            break
        if crc32(data) != checksum:
            bad, last = at if bad < 0 else bad, earlier + items
        else:
            if bad >= 0:
                yield Gap(offset + bad, offset + at, False, before, earlier)
                bad = -1
            before = earlier + items
            yield Frame(offset + at, offset + at + HEADER + length, kind, items, earlier, data)
        at += HEADER + length
    if bad >= 0:
        yield Gap(offset + bad, offset + at, False, before, last)
    if at < size:
        yield Gap(offset + at, offset + size, True, before, None)


def _head(buffer: bytes, at: int, start: int) -> tuple[int, int, int, int, int] | None:
    """Kind, length, items, items before, checksum; None where no record begins."""
    if not buffer.startswith(MARKER, at) or len(buffer) - at < HEADER:
        return None
    (checksum,) = _SUM.unpack_from(buffer, at + _HEAD.size)
    if crc32(buffer[at : at + _HEAD.size], start) != checksum:
        return None
    _, kind, length, items, before, data = _HEAD.unpack_from(buffer, at)
    return kind, length, items, before, data


def _may_be_torn(buffer: bytes, at: int) -> bool:
    """Whether this is too short for a head, and begins as one."""
    return len(buffer) - at < HEADER and MARKER.startswith(buffer[at : at + len(MARKER)])
