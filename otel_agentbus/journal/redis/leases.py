"""The lease of a shard: who has it reads its entries, and acknowledges them with what is to be kept."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .asking import Asking, Word, good
from .counters import Counters, added, field_of, read_counters, text_of
from .entries import Entry, Kept, Names, parts_of, to_bytes, to_text
from .scripts import ACK, RELEASE, RENEW

#: How many keys of trees that are over are remembered in one shard.
OVER = 100_000
#: How many letters that nobody takes are kept in one shard.
LETTERS = 1_000


class LeaseLost(Exception):
    """Another worker has the shard now, or the store has lost what it was told: nothing more of this lease is written.

    A store loses that where it starts again, or where another takes its place, without the latest of what it knew.
    """


class Lease:
    """One worker's hold of one shard, until it is released or another one takes over what was not renewed.

    Not thread-safe, but for `renew`. Every write is checked against the lease in the store, so that a worker that was
    away for long changes nothing.
    """

    def __init__(
        self, asking: Asking, names: Names, shard: int, seconds: float, remember: float, told: Sequence[bytes]
    ) -> None:
        token, position, offset, lost = told
        #: The number of the shard.
        self.shard = shard
        #: Up to which entry of the shard everything is acknowledged; "0-0" at first.
        self.position = position.decode()
        #: How often the shard was claimed, this time included.
        self.epoch = int(token.partition(b" ")[0])
        self._asking = asking
        self._names = names
        self._ms = max(round(seconds * 1000), 1)
        self._remember = round(remember * 1000)
        self._token = token
        self._acks = 0
        self._counters: dict[str, int | str] | None = None
        # Of the position, and of what was read: the number of the entry in the stream, and how many were lost before.
        self._offset, self._lost = int(offset), int(lost)
        self._reached = self.position, self._offset, self._lost
        self._unacknowledged: deque[tuple[str, int, int]] = deque()

    def _key(self, what: str) -> str:
        return self._names.group(self.shard, what)

    # -- the lease -----------------------------------------------------------------------------------------------------

    def renew(self) -> bool:
        """Hold it for as long again; False where it is lost for good.

        Raises:
            OSError: Redis does not say.

        """
        return bool(self._asking.run(RENEW, (self._key("owner"), self._key("state")), (self._token, self._ms)))

    def release(self) -> None:
        """Let others have it at once.

        Raises:
            OSError: Redis does not say.

        """
        self._asking.run(RELEASE, (self._key("owner"), self._key("state")), (self._token,))

    def _check(self, state: Any) -> None:
        token, acks = good(state)
        if token != self._token or int(acks or 0) != self._acks:
            raise self._lost_it()

    def _lost_it(self) -> LeaseLost:
        return LeaseLost(f"shard {self.shard} of {self._names.meta} is another's, or was set back")

    # -- reading -------------------------------------------------------------------------------------------------------

    def read(self, most: int) -> list[Entry]:
        """The next entries, so many at the most, after what was read last; at first after the position.

        Raises:
            LeaseLost: the shard is another's.
            OSError: Redis cannot be read; the same entries come the next time.

        """
        reached, offset, lost = self._reached
        stream = self._names.events(self.shard)
        state, found, told = self._asking.ask_all(
            (
                ("HMGET", self._key("state"), "token", "ack"),
                ("XRANGE", stream, f"({reached}", "+", "COUNT", most),
                ("XINFO STREAM", stream),
            ),
            at_once=True,
        )
        self._check(state)
        entries = [_entry(number, fields) for number, fields in good(found)]
        there = not isinstance(told, OSError)
        added, length = (int(told.get("entries-added", 0)), int(told["length"])) if there else (0, 0)
        if added - length > offset:  # the length bound took what nobody has read
            offset, lost = added - length, lost + added - length - offset
        if there and len(entries) < most:  # these are the last ones, whatever somebody has done to the stream
            offset = added - len(entries)
        for entry in entries:
            offset += 1
            self._unacknowledged.append((entry.id, offset, lost))
        if entries:
            self._reached = entries[-1].id, offset, lost
        return entries

    def rewind(self) -> None:
        """Read from the position again."""
        self._reached = self.position, self._offset, self._lost
        self._unacknowledged.clear()

    def tree(self, key: str) -> list[Entry]:
        """What is kept of an open tree, oldest first; nothing of one that is not open."""
        return self.trees((key,))[key]

    def trees(self, keys: Sequence[str]) -> dict[str, list[Entry]]:
        """What is kept of these trees, oldest first."""
        kept = self._asking.ask_all([("LRANGE", self._names.tree(self.shard, key), 0, -1) for key in keys])
        return {key: [Entry.unpack(key, each) for each in good(found)] for key, found in zip(keys, kept, strict=True)}

    def open_trees(self) -> int:
        """How many trees are open."""
        return int(self._asking.ask("ZCARD", self._key("heard")))

    def idle_trees(self, before_ms: int, most: int) -> list[str]:
        """Open trees that were last heard of before then, idle longest first."""
        found = self._asking.ask("ZRANGEBYSCORE", self._key("heard"), "-inf", f"({before_ms}", "LIMIT", 0, most)
        return [to_text(key) for key in found]

    def is_over(self, key: str) -> bool:
        """Whether this tree was over before, as far as that is remembered."""
        return key in self.are_over((key,))

    def are_over(self, keys: Sequence[str]) -> set[str]:
        """Which of these trees were over before, as far as that is remembered."""
        if not keys:
            return set()
        scores = self._asking.ask_all([("ZSCORE", self._key("over"), to_bytes(key)) for key in keys])
        return {key for key, score in zip(keys, scores, strict=True) if good(score) is not None}

    def marks(self, sources: Sequence[str]) -> dict[str, int]:
        """The `seq` of the last event of each of these sources in this shard, of those that were heard of."""
        if not sources:
            return {}
        found = self._asking.ask("HMGET", self._key("marks"), *map(to_bytes, sources))
        return {source: int(mark) for source, mark in zip(sources, found, strict=True) if mark is not None}

    def counters(self) -> Counters:
        """The numbers that were added up so far, by series and name."""
        return read_counters(self._asking.ask("HGETALL", self._key("counters")))

    # -- acknowledging -------------------------------------------------------------------------------------------------

    def ack(self, position: str, kept: Kept | None = None) -> None:
        """Everything up to this entry is done, or kept: one transaction, which renews the lease, too.

        After an `OSError` it is not known whether it was done: call it again with the same arguments, as often as you
        like, before anything else. It is done once. The position is that of an entry that was read, or the last one.

        Raises:
            LeaseLost: the shard is another's; nothing was done.
            OSError: Redis has not answered, or refused.
            ValueError: no such entry was read.

        """
        offset, lost = self._place(position)
        kept = Kept() if kept is None else kept
        sums = self._summed(kept.counters)
        keys = [self._names.positions(self.shard), self._names.events(self.shard)]
        own = [self._key(what) for what in ("heard", "over", "marks", "marked", "counters", "letters")]
        arguments = (
            *(self._token, self._acks + 1, self._ms, self._names.own, position, offset, lost),
            *(self._remember, OVER, LETTERS, self._names.tree(self.shard, "")),
            *_parts(kept, parts_of(position)[0], sums),
        )
        answer = self._asking.run(ACK, (self._key("owner"), self._key("state"), *keys, *own), arguments)
        if answer == b"lost":
            raise self._lost_it()
        self._acks += 1
        if self._counters is not None:
            self._counters.update(sums)
        self.position, self._offset, self._lost = position, offset, lost
        while self._unacknowledged and self._unacknowledged[0][1] <= offset:
            self._unacknowledged.popleft()

    def _place(self, position: str) -> tuple[int, int]:
        """The number of this entry in the stream, and how many were lost before it."""
        if position == self.position:
            return self._offset, self._lost
        for number, offset, lost in self._unacknowledged:
            if number == position:
                return offset, lost
        raise ValueError(f"{position!r} is no entry of shard {self.shard} that was read and not acknowledged")

    def _summed(self, counters: Mapping[str, Mapping[str, int | str]]) -> dict[str, int | str]:
        """What these numbers come to with those of the store, which nobody else changes."""
        if not counters:
            return {}
        if self._counters is None:
            stored = self.counters()
            self._counters = {field_of(s, name): value for s, named in stored.items() for name, value in named.items()}
        now = self._counters
        more = {field_of(s, name): value for s, named in counters.items() for name, value in named.items()}
        return {field: added(now.get(field, 0), value) for field, value in more.items()}


def _entry(number: bytes, fields: Mapping[bytes, bytes] | None) -> Entry:
    said = fields or {}  # of somebody else's
    return Entry(number.decode(), to_text(said.get(b"k", b"")), to_text(said.get(b"s", b"")), said.get(b"d", b""))


def _parts(kept: Kept, now_ms: int, sums: Mapping[str, int | str]) -> list[Word]:
    """What the script is told to keep: each part after its length."""
    heard: dict[str, int] = {}
    over, dropped, letters = list(kept.over), list(kept.dropped), list(kept.letters)
    words: list[Word] = [len(over), *map(to_bytes, over), len(dropped), *map(to_bytes, dropped), len(kept.grown)]
    for key, entries in kept.grown.items():
        listed = list(entries)
        words += (to_bytes(key), len(listed), *(entry.pack() for entry in listed))
        heard[key] = listed[-1].ms if listed else now_ms
    heard.update(kept.heard)
    marks = {to_bytes(source): seq for source, seq in kept.marks.items()}
    words += (len(heard), *_pairs((ms, to_bytes(key)) for key, ms in heard.items()))
    words += (len(marks), *_pairs(marks.items()), len(marks), *_pairs((now_ms, source) for source in marks))
    words += (len(sums), *_pairs((field, text_of(value)) for field, value in sums.items()))
    words += (len(letters), *letters)
    return words


def _pairs(pairs: Iterable[tuple[Word, Word]]) -> list[Word]:
    return [word for pair in pairs for word in pair]
