"""Whose logs a journal holds: its own and those of dead writers; what became of them where others delete files."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from .locks import WriterLock
from .owned import OwnedLog, Segment
from .places import Files, listing, make_private, new_name
from .protocol import JournalCounts
from .room import Room

_ADOPTED = 64  # writers held at a time: each costs a descriptor until its records are acknowledged


class Holdings:
    """The logs whose locks this process holds, by their writers' names. Not thread-safe."""

    def __init__(self, directory: Path, room: Room, counts: JournalCounts, aside: int) -> None:
        self._directory = directory
        self._room = room
        self._counts = counts
        self._aside = aside
        self.logs: dict[str, OwnedLog] = {}

    def start(self) -> OwnedLog:
        """The log of a new writer, in a directory that is made if it is missing.

        Raises:
            OSError: there can be none.

        """
        make_private(self._directory)
        self._sweep()
        while True:
            name = new_name()
            lock = WriterLock.take(self._lock_path(name))
            if lock is not None:
                self.logs[name] = OwnedLog(self._directory, name, lock, self._counts, self._aside)
                return self.logs[name]

    def _sweep(self) -> None:
        """Delete the locks of dead writers that left nothing."""
        for name, files in listing(self._directory).items():
            if not files.segments and name not in self.logs:
                with suppress(OSError):
                    log = self._take(name, files)
                    if log is not None and not log.segments:
                        self.done(log, keep=False)

    def adopt(self, *, keep: bool) -> int:
        """Take over what dead writers left, the oldest first; gives the items that are not acknowledged."""
        items = 0
        for name, files in listing(self._directory).items():
            if name in self.logs:
                continue
            if len(self.logs) > _ADOPTED:
                break
            damaged = self._counts.dropped["corrupt"]
            try:
                log = self._take(name, files)
            except OSError:  # a file that cannot be read stays where it is
                continue
            if log is None:
                continue
            items += log.left
            self._counts.adopted += log.left + self._counts.dropped["corrupt"] - damaged
            if not log.waiting:
                self.done(log, keep=keep)
        return items

    def _take(self, name: str, files: Files, known: Mapping[int, Segment] | None = None) -> OwnedLog | None:
        """The log of this writer, if it is dead and nobody else's."""
        lock = WriterLock.take(self._lock_path(name))
        if lock is None:
            return None
        log = OwnedLog(self._directory, name, lock, self._counts, self._aside)
        try:
            if log.path(max(files.segments, default=0) + 1).exists():  # it wrote on before it died
                files = listing(self._directory).get(name, files)
            log.load(files, known)
        except BaseException:
            lock.release()
            raise
        self.logs[name] = log
        return log

    def done(self, log: OwnedLog, *, keep: bool) -> None:
        """Nothing of this log is needed any more: delete it, or with `keep` leave it to the bounds."""
        del self.logs[log.name]
        if keep and log.segments:
            log.lock.release()
        else:
            log.vanish()

    def lost(self, log: OwnedLog) -> None:
        """Somebody deleted this log's files: hold on to those that are left, count the rest as removed."""
        left, damaged = log.left, self._counts.dropped["corrupt"]
        self.logs.pop(log.name, None)
        with suppress(OSError):
            files = listing(self._directory).get(log.name, Files())
            if files.segments:
                log.lock.release()
                again = self._take(log.name, files, log.segments)
                left -= again.left if again is not None else 0
            else:
                log.segments.clear()
                log.vanish()
        log.lock.release()
        left -= self._counts.dropped["corrupt"] - damaged
        self.count("removed", left)

    def miss(self) -> list[OwnedLog]:
        """Count the segments that other processes dropped for want of room, or as too old.

        Gives the logs whose last segment is missing: that was somebody else.
        """
        if not self.logs:
            return []
        found = listing(self._directory)
        robbed = []
        for log in self.logs.values():
            there = found.get(log.name, Files()).segments
            missing = [number for number in log.segments if number not in there]
            if missing and missing[-1] == max(log.segments):
                robbed.append(log)
                continue
            for number in missing:
                reason = "age" if self._room.too_old(log.segments[number].written) else "full"
                self.count(reason, log.forget(number))
        return robbed

    def count(self, reason: str, items: int) -> None:
        """So many items are lost."""
        if items > 0:
            self._counts.dropped[reason] += items

    def _lock_path(self, name: str) -> Path:
        return self._directory / f"{name}.lock"
