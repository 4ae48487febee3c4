"""The file of spans that an endpoint has refused for good: one JSON object a line, bounded, private."""

from __future__ import annotations

import base64
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from otel_agentbus.journal.places import make_private, open_private

NAME = "dead-letters.jsonl"
_OLDER = "dead-letters.1.jsonl"
#: What `taken()` is working through; left behind only by a process that died meanwhile.
_TAKEN = "dead-letters.taken.jsonl"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Spans that were refused: when (RFC 3339), why, by whom, how many, and themselves as OTLP bytes."""

    time: str
    reason: str
    endpoint: str
    spans: int
    otlp: bytes

    def line(self) -> bytes:
        """As one line of the file."""
        fields = {
            "time": self.time,
            "reason": self.reason,
            "endpoint": self.endpoint,
            "spans": self.spans,
            "otlp": base64.b64encode(self.otlp).decode(),
        }
        return json.dumps(fields, ensure_ascii=False).encode(errors="replace") + b"\n"

    @classmethod
    def of(cls, line: bytes) -> DeadLetter | None:
        """What a line of the file says; None where it was torn."""
        try:
            said = json.loads(line)
            return cls(
                str(said["time"]),
                str(said["reason"]),
                str(said["endpoint"]),
                int(said["spans"]),
                base64.b64decode(said["otlp"], validate=True),
            )
        except (ValueError, KeyError, TypeError):
            return None


class DeadLetters:
    """The dead letters of one spool directory, which several processes may write at once."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.directory = directory
        self._half = max(max_bytes // 2, 1)
        #: Spans in older letters that had to go because the files are bounded.
        self.lost = 0

    @property
    def path(self) -> Path:
        """The file that the newest are in."""
        return self.directory / NAME

    def write(self, reason: str, endpoint: str, spans: int, otlp: bytes) -> None:
        """Add a letter, written to the kernel at once; raises OSError where that is not possible."""
        moment = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.add(DeadLetter(moment, reason, endpoint, spans, otlp))

    def add(self, letter: DeadLetter) -> None:
        """Add this letter as it is."""
        line = letter.line()
        if len(line) > self._half:
            raise OSError(f"a dead letter of {len(line)} bytes is larger than its file may be")
        make_private(self.directory)
        self._rotate(len(line))
        _append(self.directory / NAME, line)

    def read(self) -> Iterator[DeadLetter]:
        """All of them, oldest first; torn lines are left out."""
        for name in (_TAKEN, _OLDER, NAME):
            yield from _read(self.directory / name)

    @property
    def spans(self) -> int:
        """How many spans they hold."""
        return sum(letter.spans for letter in self.read())

    @contextmanager
    def taken(self) -> Iterator[list[DeadLetter]]:
        """All letters, for the time of the block out of the files; what the block leaves in the list goes back."""
        with self._locked() as free:
            if not free:
                raise BlockingIOError(f"the dead letters in {self.directory} are in use by another process")
            working = self.directory / _TAKEN
            for name in (_OLDER, NAME):
                source = self.directory / name
                if source.exists():
                    _append(working, source.read_bytes())
                    source.unlink()
            letters = list(_read(working))
            try:
                yield letters
            finally:
                _replace(working, b"".join(letter.line() for letter in letters))
                if letters:
                    working.rename(self.directory / _OLDER)
                else:
                    working.unlink(missing_ok=True)

    def _rotate(self, coming: int) -> None:
        newer, older = self.directory / NAME, self.directory / _OLDER
        if _size(newer) + coming <= self._half:
            return
        with self._locked() as free:
            if not free or _size(newer) + coming <= self._half:  # another process is at it, or has done it
                return
            lost = sum(letter.spans for letter in _read(older))
            newer.rename(older)
            self.lost += lost

    @contextmanager
    def _locked(self) -> Iterator[bool]:
        """Whether no other process rotates or takes them out now."""
        descriptor = os.open(self.directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)


def _append(path: Path, data: bytes) -> None:
    descriptor = open_private(path, os.O_WRONLY | os.O_APPEND)
    try:
        written = os.write(descriptor, data)
        if written < len(data):  # the next line shall not be glued to this torn one
            os.write(descriptor, b"\n")
            raise OSError(f"only {written} of {len(data)} bytes were written to {path}")
    finally:
        os.close(descriptor)


def _replace(path: Path, data: bytes) -> None:
    new = path.with_suffix(".new")
    with os.fdopen(open_private(new, os.O_WRONLY | os.O_TRUNC), "wb") as file:
        file.write(data)
    new.replace(path)


def _read(path: Path) -> Iterator[DeadLetter]:
    try:
        with path.open("rb") as file:
            for line in file:
                if (letter := DeadLetter.of(line)) is not None:
                    yield letter
    except FileNotFoundError:
        return


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
