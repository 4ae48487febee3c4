"""One shard of the journal as its readers see it: to be claimed, and how much waits in it."""

from __future__ import annotations

import secrets
from typing import Any

from .asking import Asking, good
from .counters import Counters, read_counters
from .entries import Names, parts_of
from .leases import Lease
from .scripts import CLAIM, FORGET


class ShardLog:
    """One of the streams, for one group of workers."""

    def __init__(self, asking: Asking, names: Names, number: int, remember: float) -> None:
        #: Which one, from 0 on.
        self.number = number
        self._asking = asking
        self._names = names
        self._remember = remember

    def _key(self, what: str) -> str:
        return self._names.group(self.number, what)

    def claim(self, worker: str, seconds: float) -> Lease | None:
        """Own this shard for so long, unless it is renewed; None while another worker does.

        A group that comes for the first time begins with what is there.

        Raises:
            OSError: Redis does not say.

        """
        keys = (self._key("owner"), self._key("state"), self._names.positions(self.number))
        told = self._asking.run(
            CLAIM,
            (*keys, self._names.events(self.number)),
            (f"{worker} {secrets.token_hex(8)}", max(round(seconds * 1000), 1), self._names.own),
        )
        if told is None:
            return None
        return Lease(self._asking, self._names, self.number, seconds, self._remember, told)

    def owner(self) -> str | None:
        """The worker that owns it now; None where nobody does."""
        token = self._asking.ask("GET", self._key("owner"))
        return None if token is None else token.decode("utf-8", "backslashreplace").split(" ", 1)[1].rpartition(" ")[0]

    def lag(self) -> int:
        """How many entries wait here that the group has not acknowledged."""
        told, offset, _ = self._state()
        if told is None:
            return 0
        added, length = told
        known = offset is not None and offset <= added  # else somebody has deleted the stream, and it began anew
        return min(added - (offset or 0), length) if known else length

    def trimmed(self) -> int:
        """How many entries went by the bound on the length before the group had acknowledged them.

        What has been read and not acknowledged may be among them: then it is taken back with its acknowledgement.
        """
        told, offset, lost = self._state()
        if told is None or offset is None:
            return lost
        added, length = told
        return lost + max(added - length - offset, 0)

    def oldest_ms(self) -> int | None:
        """When the oldest entry came that the group has not acknowledged; None where there is none."""
        position = self._asking.ask("HGET", self._key("state"), "position") or b"-"
        begin = position if position == b"-" else b"(" + position
        found = self._asking.ask("XRANGE", self._names.events(self.number), begin, "+", "COUNT", 1)
        return parts_of(found[0][0].decode())[0] if found else None

    def open_trees(self) -> int:
        """How many trees are open."""
        return int(self._asking.ask("ZCARD", self._key("heard")))

    def forget(self) -> bool:
        """Forget how far the group has read here, and what it has kept; False where a worker owns the shard.

        If the group comes again, it begins with what is there.

        Raises:
            OSError: Redis does not say whether it was done.

        """
        kept = ("heard", "state", "over", "marks", "marked", "counters", "letters")
        keys = (self._key("owner"), self._names.positions(self.number), *map(self._key, kept))
        return bool(self._asking.run(FORGET, keys, (self._names.own, self._names.tree(self.number, ""))))

    def counters(self) -> Counters:
        """The numbers that were added up so far, by series and name: ints, and decimals as text."""
        return read_counters(self._asking.ask("HGETALL", self._key("counters")))

    def letters(self) -> list[bytes]:
        """What nobody has taken, oldest first."""
        found: list[bytes] = self._asking.ask("LRANGE", self._key("letters"), 0, -1)
        return found

    def _state(self) -> tuple[tuple[int, int] | None, int | None, int]:
        """The entries added and the entries there (None without a stream), those acknowledged, those lost before."""
        stream = self._names.events(self.number)
        length, told, state = self._asking.ask_all(
            (
                ("XLEN", stream),
                ("XINFO STREAM", stream),
                ("HMGET", self._key("state"), "offset", "lost"),
            ),
            at_once=True,
        )
        offset, lost = good(state)
        known = None if offset is None else int(offset)
        if isinstance(told, OSError):
            good(length)
            return None, known, int(lost or 0)
        return (_added(told), int(told["length"])), known, int(lost or 0)


def _added(told: dict[str, Any]) -> int:
    """How many entries the stream ever had."""
    return max(int(told.get("entries-added", 0)), int(told["length"]))
