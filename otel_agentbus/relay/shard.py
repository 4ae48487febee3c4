"""One shard in the hands of its owner: read, applied, exported, acknowledged, in this order and again."""

from __future__ import annotations

import errno
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping

from ..journal.redis import Kept, Lease
from ..settings import Settings
from .counting import ShardCounting
from .exporting import FIRST_S, LONGEST_S, Outlet, Undelivered
from .makers import Makers
from .trees import Known, Trees

_log = logging.getLogger("otel_agentbus.relay")

#: How many entries are taken at once: at first, and at most; and how many bytes of them, about.
FIRST, MOST, MOST_BYTES = 100, 1_000, 8 * 1024 * 1024
#: Seconds between two looks for trees of which nothing is heard, and how many of them are looked at.
LOOK_S, LOOKED_AT = 1.0, 200


class _Store:
    """A lease as the trees ask it: for many at once."""

    def __init__(self, lease: Lease) -> None:
        self._lease = lease

    def known(self, keys: Collection[str]) -> Mapping[str, Known]:
        asked = list(keys)
        kept, over = self._lease.trees(asked), self._lease.are_over(asked)
        return {key: Known(kept.get(key, ()), key in over) for key in asked}

    def marks(self, sources: Collection[str]) -> Mapping[str, int]:
        return self._lease.marks(list(sources))


class Shard:
    """Works one shard off, as long as the lease holds.

    Args:
        lease: of the shard, just claimed.
        makers: of the worker.
        outlet: where the spans go.
        settings: of the worker.
        metrics: whether the events' metrics are counted, too.

    """

    def __init__(self, lease: Lease, makers: Makers, outlet: Outlet, settings: Settings, *, metrics: bool) -> None:
        self.number = lease.shard
        self._lease = lease
        self._makers = makers
        self._outlet = outlet
        self._ttl_ms = round(settings.run_ttl * 1000)
        self._counting = ShardCounting(settings, lease.counters()) if metrics else None
        self._trees = Trees(_Store(lease), makers, self._ttl_ms, self._counting)
        self._most = min(FIRST, MOST)
        self._look_at = 0.0

    @property
    def waits(self) -> bool:
        """Whether something in it waits for its grace."""
        return self._trees.waits

    def open_runs(self) -> int:
        """How many trees are open in it, in memory or not; OSError: Redis does not say."""
        return self._lease.open_trees()

    def turn(self, now_ms: int, go_on: Callable[[], bool], most_spans: int) -> Counter[str] | None:
        """Work off what is there, a batch of it; what was done, by name, or None where there was nothing to do.

        Args:
            now_ms: the time of Redis before this.
            go_on: whether there is a reason to wait for an endpoint, or for Redis.
            most_spans: how many spans may be open in memory afterwards.

        Raises:
            LeaseLost: the shard is another's.
            Undelivered: the endpoint did not take it, and there is no reason to wait any more.
            OSError: Redis does not answer. After any of these, this object is of no use any more.

        """
        trees = self._trees
        entries = self._lease.read(self._most)
        if entries:
            trees.prepare(entries)
            for entry in entries:
                trees.feed(entry)
        self._pass_time(entries[-1].ms if len(entries) == self._most else now_ms)
        spans = self._makers.taken()
        if not (entries or spans or trees.has_news):
            return None
        self._most = self._next_most(sum(len(entry.data) for entry in entries), len(entries))
        before = self._outlet.refused
        letters = self._outlet.deliver(spans, go_on)
        kept = trees.kept()
        kept.letters = letters
        if self._counting is not None:
            kept.counters = self._counting.taken(now_ms * 1_000_000)
        self._acknowledge(entries[-1].id if entries else self._lease.position, kept, go_on)
        trees.acked()
        trees.put_away(most_spans)
        done, trees.counts = trees.counts, Counter()
        done["refused"] = self._outlet.refused - before
        done["spans"] = len(spans) - done["refused"]
        return done

    def _pass_time(self, now_ms: int) -> None:
        """Judge what is due by now: all that was written before it has been read."""
        self._trees.judge(now_ms)
        if time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + LOOK_S
            idle = self._lease.idle_trees(now_ms - self._ttl_ms, LOOKED_AT)
            if idle:
                self._trees.look_at(idle, now_ms)
                self._look_at = 0.0

    def _next_most(self, size: int, number: int) -> int:
        """How many entries to take the next time, so that they are not too many bytes, if they are like these."""
        return max(min(MOST, MOST_BYTES * number // size), 1) if size else self._most

    def _acknowledge(self, position: str, kept: Kept, go_on: Callable[[], bool]) -> None:
        delay = FIRST_S
        while True:
            try:
                self._lease.ack(position, kept)
                return
            except OSError as error:  # it may be done: the same again does nothing then
                if error.errno == errno.EIO:  # Redis does not take it, and will not
                    raise
                if not go_on():
                    raise Undelivered from error
                _log.debug("What was done could not be acknowledged: %s", error)
                time.sleep(delay)
                delay = min(2 * delay, LONGEST_S)
