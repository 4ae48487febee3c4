"""What stands in the store: its keys, its entries, which shard a key belongs to, and positions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from struct import Struct
from typing import NamedTuple

#: Before everything: no entry has this id.
BEGINNING = "0-0"
_LENGTHS = Struct(">BI")
_POSITION = re.compile(r"(\d{15})-(\d{10})@(\d{4})", re.ASCII)


class Entry(NamedTuple):
    """One record of a shard, as it came: by whom it was written, and to which tree it belongs."""

    id: str
    key: str
    source: str
    data: bytes

    @property
    def ms(self) -> int:
        """The time of Redis at which it came, in milliseconds since 1970."""
        return parts_of(self.id)[0]

    def pack(self) -> bytes:
        """The entry as it is kept with its tree, which has its key."""
        source, number = to_bytes(self.source), self.id.encode()
        return b"".join((_LENGTHS.pack(len(number), len(source)), number, source, self.data))

    @classmethod
    def unpack(cls, key: str, packed: bytes) -> Entry:
        """The entry that was kept with this tree."""
        number, source = _LENGTHS.unpack_from(packed)
        start = _LENGTHS.size + number
        name = to_text(packed[start : start + source])
        return cls(packed[_LENGTHS.size : start].decode(), key, name, packed[start + source :])


@dataclass(slots=True)
class Kept:
    """What an acknowledgement keeps of the entries that it covers: all of it is stored, or nothing.

    A tree is open from its first entry in `grown` (or its key in `heard`) until it is in `over` or `dropped`. One that
    is in both was over and has begun anew: what was kept of it goes, and what has grown is kept.
    """

    #: Entries of trees that stay open, by key: they are appended to what is kept already.
    grown: Mapping[str, Iterable[Entry]] = field(default_factory=dict)
    #: When open trees were last heard of, in milliseconds; of a tree in `grown` only, its last entry says it.
    heard: Mapping[str, int] = field(default_factory=dict)
    #: Trees that are over: what was kept of them goes, and their key is remembered for a while.
    over: Iterable[str] = ()
    #: Trees of which nothing is remembered.
    dropped: Iterable[str] = ()
    #: The `seq` of each source's last event in this shard.
    marks: Mapping[str, int] = field(default_factory=dict)
    #: Numbers to add up in the store, by series and name: ints, and decimals as text. They are added exactly.
    counters: Mapping[str, Mapping[str, int | str]] = field(default_factory=dict)
    #: What nobody will take, as bytes; the latest thousand of a shard are kept.
    letters: Iterable[bytes] = ()


class Names:
    """The keys of one journal; those of one shard stand in one slot of a cluster."""

    def __init__(self, name: str, group: str) -> None:
        self.meta = f"{name}:meta"
        self.workers = f"{name}:{group}:workers"
        self._name = name
        #: Whose positions and trees these are.
        self.own = group

    def opening(self, source: str) -> bytes:
        """Of the opening of this source."""
        return f"{self._name}:opening:".encode() + to_bytes(source)

    def turn(self, what: str) -> str:
        """Of who has the turn to do this."""
        return f"{self._name}:{self.own}:turn:{what}"

    def events(self, shard: int) -> str:
        """Of the shard's stream."""
        return f"{{{self._name}:{shard}}}:events"

    def positions(self, shard: int) -> str:
        """Of the hash that tells how far each group has acknowledged."""
        return f"{{{self._name}:{shard}}}:groups"

    def group(self, shard: int, what: str) -> str:
        """Of something that this group keeps for the shard."""
        return f"{{{self._name}:{shard}}}:{self.own}:{what}"

    def tree(self, shard: int, key: str) -> bytes:
        """Of what is kept of an open tree."""
        return self.group(shard, "tree:").encode() + to_bytes(key)


def shard_of(key: str, shards: int) -> int:
    """The shard of a key: the first 8 bytes of its BLAKE2b-64, big-endian, modulo the number of shards.

    This is part of the format: producers in any language and version agree on it.
    """
    return int.from_bytes(blake2b(to_bytes(key), digest_size=8).digest()) % shards


def to_bytes(text: str) -> bytes:
    """A text as the store has it, whatever is in it."""
    return text.encode("utf-8", "backslashreplace")


def to_text(data: bytes) -> str:
    """A text of the store."""
    return data.decode("utf-8", "backslashreplace")


def parts_of(entry_id: str) -> tuple[int, int]:
    """The milliseconds and the number in the id of an entry; ids are in this order."""
    ms, _, number = entry_id.partition("-")
    return int(ms), int(number or 0)


def position_of(shard: int, entry_id: str) -> str:
    """An entry's position in the journal; one shard's are in the order of its entries."""
    ms, number = parts_of(entry_id)
    return f"{ms:015d}-{number:010d}@{shard:04d}"


def place_of(position: str) -> tuple[int, str]:
    """The shard and the id of the entry in a position.

    Raises:
        ValueError: no such journal gave this.

    """
    found = _POSITION.fullmatch(position)
    if found is None:
        raise ValueError(f"{position!r} is no position of this journal")
    ms, number, shard = map(int, found.groups())
    return shard, f"{ms}-{number}"
