"""Which shards this worker has: its fair share, held by leases that a thread renews, whatever the worker does."""

from __future__ import annotations

import errno
import logging
import threading
from collections.abc import Iterable, Iterator
from zlib import crc32

from ..journal.redis import Lease, RedisJournal

_log = logging.getLogger("otel_agentbus.relay")

#: How often a lease is renewed, and the shares are looked at, within its time.
TIMES = 4


class Leases:
    """The leases of one worker; only their renewal has a thread of its own."""

    def __init__(self, journal: RedisJournal, worker: str, seconds: float) -> None:
        self._journal = journal
        self.worker = worker
        self._seconds = seconds
        self._held: dict[int, Lease] = {}
        self._lost: set[int] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="otel-agentbus-relay", daemon=True)

    @property
    def period_s(self) -> float:
        """Seconds between two looks."""
        return self._seconds / TIMES

    def start(self) -> None:
        """Have the leases renewed from now on."""
        self._thread.start()

    def is_lost(self, shard: int) -> bool:
        """Whether another worker may have this shard by now."""
        return shard in self._lost or shard not in self._held

    def claim(self) -> Iterator[Lease]:
        """What this worker gets now of what it lacks, one by one: what it has got it has, whatever comes then.

        Raises:
            OSError: the broker does not answer.

        """
        self._journal.heartbeat(self.worker)
        share = self._share()
        for number in self._order():
            if len(self._held) >= share:
                break
            lease = self._claimed(number)
            if lease is not None:
                self._lost.discard(number)
                self._held[number] = lease
                yield lease

    def _claimed(self, number: int) -> Lease | None:
        try:
            return self._journal.shard(number).claim(self.worker, self._seconds)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            _log.warning("Shard %d cannot be claimed: %s", number, error.strerror)  # the others can
            return None

    def excess(self) -> list[int]:
        """The shards that this worker has beyond its share.

        Raises:
            OSError: the broker does not answer.

        """
        return list(self._held)[self._share() :]

    def _share(self) -> int:
        workers = {*self._journal.workers(self._seconds), self.worker}
        return -(-self._journal.shards // len(workers))

    def _order(self) -> Iterable[int]:
        """The shards that are not held, beginning with another one than other workers do."""
        shards = self._journal.shards
        first = crc32(self.worker.encode())
        return [number for each in range(shards) if (number := (first + each) % shards) not in self._held]

    def let_go(self, shard: int) -> None:
        """Release this shard, so that others may have it at once."""
        lease = self._held.pop(shard, None)
        self._lost.discard(shard)
        if lease is not None:
            try:
                lease.release()
            except OSError:  # then it ends by itself
                pass

    def end(self) -> None:
        """Let go of everything, and leave."""
        self._ended.set()
        for shard in list(self._held):
            self.let_go(shard)
        if self._thread.is_alive():
            self._thread.join(self._seconds)
        try:
            self._journal.leave(self.worker)
        except OSError:
            pass

    def _renew(self) -> None:
        while not self._ended.wait(self.period_s):
            try:
                self._journal.heartbeat(self.worker)
                for shard, lease in list(self._held.items()):
                    if not lease.renew() and self._held.get(shard) is lease:
                        self._lost.add(shard)
            except OSError as error:  # it may be back before the leases are over
                _log.debug("The leases could not be renewed: %s", error)
            except Exception:  # noqa: BLE001 - without this thread all would be lost at once
                _log.exception("The leases could not be renewed")
