"""How far a writer's records are done, in a small file: two slots written in turn, so that one is always whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from struct import Struct
from typing import NamedTuple
from zlib import crc32

from .places import open_private

# generation, segment, end, items, finished
_SLOT = Struct("<QQQQB")
_SUM = Struct("<I")
_STRIDE = 64


class Ack(NamedTuple):
    """Everything up to `end` in this segment, and in those before, is done: so many items. `finished`: for good."""

    generation: int = 0
    segment: int = 0
    end: int = 0
    items: int = 0
    finished: bool = False

    def covers(self, segment: int, end: int) -> bool:
        """Whether the record that ends there is done."""
        return (segment, end) <= (self.segment, self.end)


def load_ack(path: Path) -> Ack:
    """The newest slot that is whole; nothing is done where there is none."""
    try:
        content = path.read_bytes()
    except OSError:
        return Ack()
    found = Ack()
    for start in (0, _STRIDE):
        slot = content[start : start + _SLOT.size]
        if content[start + _SLOT.size : start + _SLOT.size + _SUM.size] != _SUM.pack(crc32(slot, start)):
            continue
        if len(slot) == _SLOT.size:
            generation, segment, end, items, finished = _SLOT.unpack(slot)
            found = max(found, Ack(generation, segment, end, items, bool(finished)))
    return found


def save_ack(path: Path, ack: Ack) -> None:
    """Write it over the older slot: one small write, which a SIGKILL cannot divide.

    Raises:
        OSError: it could not be written.

    """
    start = _STRIDE * (ack.generation % 2)
    slot = _SLOT.pack(*ack)
    descriptor = open_private(path, os.O_WRONLY)
    try:
        content = slot + _SUM.pack(crc32(slot, start))
        if os.pwrite(descriptor, content, start) != len(content):
            raise OSError(errno.ENOSPC, "the disk is full", str(path))
    finally:
        os.close(descriptor)


def reserve_ack(path: Path) -> None:
    """Take the room now in which it will say how far it is done: in the end the disk may be full.

    Raises:
        OSError: there is none already.

    """
    descriptor = open_private(path, os.O_WRONLY)
    try:
        if os.fstat(descriptor).st_size == 0:
            os.pwrite(descriptor, bytes(2 * _STRIDE), 0)
    finally:
        os.close(descriptor)
