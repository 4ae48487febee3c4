"""The journal on Redis Streams: any number of processes write to it, any number of workers share its shards."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ..protocol import Position, Record
from .asking import Asking, Word, good, words_of
from .entries import Names, parts_of, place_of, position_of, shard_of, to_bytes, to_text
from .leases import Lease, LeaseLost
from .scripts import APPEND, HEARTBEAT, TURN
from .shards import ShardLog

_log = logging.getLogger("otel_agentbus.journal")

#: How long the opening of a source is kept, in seconds; it is renewed with every write.
OPENING_S = 7 * 86_400
#: How often an opening is written anew, in seconds: what describes a process may become known later.
_AFRESH_S = 600.0
#: How many records are sent at once, how many entries are read at once, and for how long a reader owns a shard.
_AT_ONCE = 1024
_READ_S = 30.0
#: How long a worker is remembered that is not heard of.
_WORKERS_MS = 3_600_000


class NotWritten(OSError):
    """Some of these records could not be written; `left` are their indices, oldest first."""

    left: Sequence[int] = ()


class RedisJournal:
    """Records in streams of one Redis (7 or newer); those of one key stay in one stream, in order.

    Nothing is asked of Redis before the first call. What is sent again after an answer was lost is written twice: who
    reads drops what is not beyond its source's mark.

    Args:
        url: `redis://`, `rediss://` or `unix://`, as redis-py takes it.
        name: How the keys begin.
        shards: Over how many streams the keys are spread; what the store says already is obeyed.
        max_events: How many entries all streams may have together; beyond it the oldest are dropped, and counted.
        opening: The source and what describes its process, for those who read; asked for now and then.
        timeout: Seconds that Redis may take for an answer.
        group: Whose leases and acknowledgements these are.
        remember: Seconds for which sources that are quiet, and trees that are over, are remembered.

    Raises:
        ConfigurationError: redis-py is not installed, or the URL is none.

    """

    #: Records are to come with their keys and sources.
    keyed = True

    def __init__(
        self,
        url: str,
        *,
        name: str = "agentbus",
        shards: int = 8,
        max_events: int = 1_000_000,
        opening: Callable[[], tuple[str, bytes]] | None = None,
        timeout: float = 5.0,
        group: str = "relay",
        remember: float = 86_400.0,
    ) -> None:
        self._asking = Asking(url, timeout)
        #: The URL as it may be shown.
        self.url = self._asking.url
        self._names = Names(name, group)
        self._wanted = shards
        self._max_events = max_events
        self._opening = opening
        self._remember = remember
        self._warned = False
        self._reset()
        _journals.add(self)

    def _reset(self) -> None:
        self._lock = threading.RLock()
        self._stored: int | None = None
        self._source = f"{os.getpid()}-{os.urandom(4).hex()}"
        self._opened_at: float | None = None
        self._leases: dict[int, Lease] = {}

    # -- writing -------------------------------------------------------------------------------------------------------

    def append(self, data: bytes, items: int = 1, key: str = "", source: str = "") -> Position:
        """Write this record; `items` is always 1 here.

        Raises:
            OSError: Redis did not take it, or did not say so.

        """
        return self.append_many((data,), (key,), (source,))

    def append_many(self, datas: Sequence[bytes], keys: Sequence[str] = (), sources: Sequence[str] = ()) -> Position:
        """Write these records, each to the shard of its key; gives the position of the last one.

        A shard takes all of its records or none, so that none is missing in the middle. An answer that is lost leaves
        open which shards have taken theirs; what is then sent again, from the first record that was not answered on,
        has each record's first copy in order whatever the old connection still delivers, because every connection
        carries a record only behind all those before it that are unanswered; later copies are below the mark.

        Raises:
            NotWritten: (an OSError) Redis did not take these, or did not say so.
            ValueError: there are none.

        """
        if not datas:
            raise ValueError("no records were given, so there is no position")
        keys = keys or ("",) * len(datas)
        sources = sources or ("",) * len(datas)
        records = list(zip(keys, sources, datas, strict=True))
        position = ""
        with self._lock:
            for start in range(0, len(records), _AT_ONCE):
                position = self._append(records[start : start + _AT_ONCE], start, len(records))
        return position

    def _append(self, records: Sequence[tuple[str, str, bytes]], start: int, end: int) -> Position:
        try:
            shards = self.shards
            opening = self._own_opening()
            parts: dict[int, list[int]] = {}
            for index, record in enumerate(records):
                parts.setdefault(shard_of(record[0], shards), []).append(index)
            written = [self._part(shard, [records[index] for index in part]) for shard, part in parts.items()]
            answers = self._asking.ask_all((*opening, *self._meta(), *written))
        except OSError as error:
            self._opened_at = None
            raise _not_written(error, range(start, end)) from None
        self._note_opening(opening, answers[: len(opening)])
        self._note_shards(answers[len(opening) : len(opening) + 2])
        told = dict(zip(parts, answers[len(opening) + 2 :], strict=True))
        failed = [shard for shard, answer in told.items() if isinstance(answer, OSError)]
        if failed:
            left = sorted(start + index for shard in failed for index in parts[shard])
            raise _not_written(told[failed[0]], (*left, *range(start + len(records), end)))
        last = shard_of(records[-1][0], shards)
        return position_of(last, told[last].decode())

    def _part(self, shard: int, records: Sequence[tuple[str, str, bytes]]) -> Sequence[Word]:
        bound = max(self._max_events // (self._stored or 1), 1)
        words: list[Word] = [bound]
        for key, source, data in records:
            words += (to_bytes(key), to_bytes(source or self._source), data)
        return words_of(APPEND, (self._names.events(shard),), words)

    def _meta(self) -> tuple[Sequence[Word], Sequence[Word]]:
        return ("HSETNX", self._names.meta, "shards", self._wanted), ("HGET", self._names.meta, "shards")

    def _note_shards(self, answers: Sequence[Any]) -> None:
        said, stored = answers
        if good(stored) is None:
            good(said)  # why it was not told
        if not isinstance(stored, bytes) or not stored.isdigit() or int(stored) < 1:
            raise OSError(errno.EINVAL, f"{self._names.meta} in {self.url} does not say how many shards there are")
        self._stored = int(stored)
        if self._stored != self._wanted and not self._warned:
            self._warned = True
            _log.warning(
                "%s has %d shards in %s, and not %d: it keeps them",
                self._names.meta,
                self._stored,
                self.url,
                self._wanted,
            )

    # -- what describes the writers ------------------------------------------------------------------------------------

    def _own_opening(self) -> list[Sequence[Word]]:
        """What is to be said of this process, before its records; that it is still valid, where that was said."""
        if self._opening is None:
            return []
        if self._opened_at is None or time.monotonic() - self._opened_at > _AFRESH_S:
            self._source, data = self._opening()
            return [("SET", self._names.opening(self._source), data, "EX", OPENING_S)]
        return [("EXPIRE", self._names.opening(self._source), OPENING_S)]

    def _note_opening(self, asked: Sequence[Sequence[Word]], answers: Sequence[Any]) -> None:
        for words, answer in zip(asked, answers, strict=True):
            if isinstance(answer, OSError):
                self._opened_at = None
            elif words[0] == "SET":
                self._opened_at = time.monotonic()
            elif not answer:  # gone, as after a restart
                self._opened_at = None
                again = self._own_opening()
                self._note_opening(again, self._asking.ask_all(again))

    def introduce(self, source: str, opening: bytes) -> None:
        """Say what describes another process, whose records are written in its place.

        Raises:
            OSError: Redis did not take it.

        """
        self._asking.ask("SET", self._names.opening(source), opening, "EX", OPENING_S)

    def openings(self, source: str) -> bytes | None:
        """What describes the process of this source; None where that is not known (any more).

        Raises:
            OSError: Redis does not say.

        """
        found: bytes | None = self._asking.ask("GET", self._names.opening(source))
        return found

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def shards(self) -> int:
        """How many shards there are, as the store says; it is told where it does not say.

        Raises:
            OSError: Redis does not say.

        """
        if self._stored is None:
            self._note_shards(self._asking.ask_all(self._meta()))
        assert self._stored is not None
        return self._stored

    def known_shards(self) -> int:
        """How many shards there are, as the store says; 0 where nobody has told it, which this does not, either.

        Raises:
            OSError: Redis does not say.

        """
        return self.shards if self._asking.ask("HEXISTS", self._names.meta, "shards") else 0

    def shard(self, number: int) -> ShardLog:
        """One of the shards, from 0 on."""
        return ShardLog(self._asking, self._names, number, self._remember)

    def groups(self) -> list[str]:
        """The groups that read this journal, or have done so, by name.

        Raises:
            OSError: Redis does not say.

        """
        told = self._asking.ask_all([("HKEYS", self._names.positions(number)) for number in range(self.shards)])
        return sorted({to_text(group) for groups in told for group in good(groups)})

    def read(self, after: Position | None = None) -> Iterator[Record]:
        """What the group has not acknowledged, shard by shard, up to what is there when its turn comes.

        Shards that another worker owns are left out; those that are read are owned until they are `close`d.

        Raises:
            ValueError: `after` is no position.
            OSError: Redis cannot be read.

        """
        begin = None if after is None else place_of(after)
        for number in range(self.shards):
            lease = self._lease(number)
            if lease is not None:
                yield from self._read(lease, begin)

    def _read(self, lease: Lease, begin: tuple[int, str] | None) -> Iterator[Record]:
        left = self.shard(lease.shard).lag()
        lease.rewind()
        while left > 0:
            lease.renew()
            entries = lease.read(min(left, _AT_ONCE))
            left = left - len(entries) if entries else 0
            for entry in entries:
                if begin is None or begin[0] != lease.shard or parts_of(entry.id) > parts_of(begin[1]):
                    yield Record(position_of(lease.shard, entry.id), entry.data, 1)

    def _lease(self, number: int) -> Lease | None:
        lease = self._leases.get(number)
        if lease is not None and lease.renew():
            return lease
        lease = self.shard(number).claim(self._source, _READ_S)
        if lease is None:
            self._leases.pop(number, None)
        else:
            self._leases[number] = lease
        return lease

    def ack(self, position: Position) -> None:
        """Everything of that shard, up to this record, is done; what another worker owns by now is left to it.

        Raises:
            ValueError: this is no position of a record that was read.
            OSError: Redis does not say whether it was done.

        """
        number, entry = place_of(position)
        lease = self._leases.get(number)
        if lease is None or parts_of(entry) <= parts_of(lease.position):
            return
        try:
            lease.ack(entry)
        except LeaseLost:
            del self._leases[number]

    # -- workers -------------------------------------------------------------------------------------------------------

    def heartbeat(self, worker: str) -> None:
        """Say that this worker of the group lives.

        Raises:
            OSError: Redis has not heard it.

        """
        self._asking.run(HEARTBEAT, (self._names.workers,), (worker, _WORKERS_MS))

    def workers(self, seconds: float) -> list[str]:
        """The workers of the group that were heard of in so many seconds, by name.

        Raises:
            OSError: Redis does not say.

        """
        since = self.now_ms() - round(seconds * 1000)
        return sorted(map(to_text, self._asking.ask("ZRANGEBYSCORE", self._names.workers, since, "+inf")))

    def leave(self, worker: str) -> None:
        """Say that this worker ends.

        Raises:
            OSError: Redis has not heard it.

        """
        self._asking.ask("ZREM", self._names.workers, worker)

    def turn(self, what: str, worker: str, seconds: float) -> bool:
        """Whether this worker of the group is the one to do this for so many seconds from now.

        Raises:
            OSError: Redis does not say.

        """
        answer = self._asking.run(TURN, (self._names.turn(what),), (worker, max(round(seconds * 1000), 1)))
        return bool(answer)

    def now_ms(self) -> int:
        """The time of Redis, in milliseconds since 1970.

        Raises:
            OSError: Redis does not say.

        """
        seconds, microseconds = self._asking.ask("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    # -- life ----------------------------------------------------------------------------------------------------------

    def sync(self) -> None:
        """Nothing to do: how Redis keeps what it was given is set up there."""

    def finish(self) -> None:
        """Nothing to do: what was written is for those who read."""

    def close(self) -> None:
        """Let go of what was owned, and of the connections; it can be used again."""
        with self._lock:
            leases, self._leases = self._leases, {}
            try:
                for lease in leases.values():
                    lease.release()
            except OSError:  # then it ends by itself
                pass
            self._asking.close()


def _not_written(error: OSError, left: Sequence[int]) -> NotWritten:
    told = NotWritten(error.errno, error.strerror)
    told.left = left
    return told


_journals: weakref.WeakSet[RedisJournal] = weakref.WeakSet()


def _after_fork() -> None:
    for journal in tuple(_journals):
        journal._reset()


os.register_at_fork(after_in_child=_after_fork)
