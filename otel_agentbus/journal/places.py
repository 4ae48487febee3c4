"""The names of a journal's files, and the positions of records in them."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

ASIDE = "corrupt"
_FILE = re.compile(r"([0-9a-f]{16}-\d+-[0-9a-f]{8})(?:-(\d{8})\.seg|\.(lock|ack))")
_POSITION = re.compile(r"([0-9a-f]{16}-\d+-[0-9a-f]{8})/(\d{8})/(\d{10})/(\d{16})", re.ASCII)


def new_name() -> str:
    """A writer's name: when it was born (so that names sort by birth), its process, and what nobody else has."""
    return f"{time.time_ns() // 1000:016x}-{os.getpid()}-{secrets.token_hex(4)}"


class Place(NamedTuple):
    """A position taken apart: the record's end in this segment, and the writer's number of items up to there."""

    writer: str
    segment: int
    end: int
    items: int

    @property
    def position(self) -> str:
        """As callers know it."""
        return f"{self.writer}/{self.segment:08d}/{self.end:010d}/{self.items:016d}"

    @classmethod
    def parse(cls, position: str) -> Place:
        """Of a position that a journal gave.

        Raises:
            ValueError: no journal gave this.

        """
        found = _POSITION.fullmatch(position)
        if found is None:
            raise ValueError(f"{position!r} is no position of a journal")
        writer, segment, end, items = found.groups()
        return cls(writer, int(segment), int(end), int(items))


def segment_name(writer: str, number: int) -> str:
    """The file's name."""
    return f"{writer}-{number:08d}.seg"


class Size(NamedTuple):
    """A segment's bytes, and when it was last written (seconds since 1970)."""

    bytes: int
    mtime: float


@dataclass(slots=True)
class Files:
    """What one writer has in the directory; segments by their number, in order."""

    segments: dict[int, Size] = field(default_factory=dict)
    acked: bool = False


def listing(directory: Path) -> dict[str, Files]:
    """What each writer has in the directory, by birth; nothing where there is no directory.

    Raises:
        OSError: the directory cannot be read.

    """
    found: dict[str, Files] = {}
    for entry in _entries(directory):
        match = _FILE.fullmatch(entry.name)
        if match is None:
            continue
        writer, number, kind = match.groups()
        files = found.setdefault(writer, Files())
        if kind == "ack":
            files.acked = True
        elif number is not None:
            try:
                seen = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            files.segments[int(number)] = Size(seen.st_size, seen.st_mtime)
    for files in found.values():
        files.segments = dict(sorted(files.segments.items()))
    return dict(sorted(found.items()))


def files_of(directory: Path, writer: str, known: Iterable[int]) -> Files:
    """What is left of these segments of a writer, and those that it has begun since: one after the other."""
    files, numbers = Files(), sorted(known)
    for number in chain(numbers, count(numbers[-1] + 1 if numbers else 1)):
        try:
            seen = os.stat(directory / segment_name(writer, number), follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            if numbers and number <= numbers[-1]:
                continue
            return files
        files.segments[number] = Size(seen.st_size, seen.st_mtime)
    return files


def _entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return


def make_private(directory: Path) -> None:
    """Make this directory and what is missing above it, for this user only, whatever the umask."""
    missing = []
    while not directory.exists():
        missing.append(directory)
        directory = directory.parent
    for each in reversed(missing):
        try:
            each.mkdir(0o700)
        except FileExistsError:  # another process was quicker
            continue
        each.chmod(0o700)


def open_private(path: Path, flags: int) -> int:
    """A descriptor of this file, made for this user only, whatever the umask."""
    descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if os.fstat(descriptor).st_mode & 0o777 != 0o600:
            os.fchmod(descriptor, 0o600)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
