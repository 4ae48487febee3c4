"""The events that wait for a broker: put in order, and made into records with their keys."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from ..events import Event
from ..journal.outbox import Parcel
from ..recording import Keys, record_of
from ..telemetry.ordering import Ordering
from ..telemetry.pump import PAUSE_S

#: Events, and bytes of them, that are sent at once.
BATCH: Final = 512
BATCH_BYTES: Final = 1 << 20
#: Events that are made into records without a pause: no more than a slice of time, which an event loop would feel.
GROUP: Final = 32


class Line:
    """Events in, batches of records out, in the order of each source. Its lock is never held while anybody waits."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = threading.RLock()
        self._given: deque[Event] = deque()
        self._ordering = Ordering()
        self._keys = Keys()
        self._ready: deque[Parcel] = deque()
        self._closed = False
        self._taken = 0
        #: How many events were given.
        self.given = 0
        #: How many were lost, by reason.
        self.dropped: Counter[str] = Counter()

    def put(self, event: Event) -> None:
        """Take an event; over the bound the oldest is dropped that is no record yet, and counted."""
        self.given += 1
        if self._closed:
            with self._lock:
                self.dropped["closed"] += 1
                self._taken += 1
            return
        if self.waiting >= self._size:
            self._make_room()
        self._given.append(event)

    def _make_room(self) -> None:
        with self._lock:
            if self._given:
                self._given.popleft()
                self._taken += 1
                self.dropped["queue_full"] += 1

    @property
    def waiting(self) -> int:
        """How many events wait."""
        return len(self._given) + self._ordering.held + len(self._ready)

    @property
    def duplicates(self) -> int:
        """How many came a second time, or so late that their turn was over."""
        return self._ordering.duplicates

    @property
    def ready(self) -> bool:
        """Whether there is a batch."""
        return bool(self._ready)

    @property
    def crowded(self) -> bool:
        """Whether there is more to be made into records."""
        return bool(self._given)

    def is_through(self, given: int) -> bool:
        """Whether so many of those that were given have gone their way."""
        with self._lock:
            return self._taken - self._ordering.held - len(self._ready) >= given

    def collect(self) -> None:
        """Make records of what was given, as many as are sent at once; what comes too early waits for its turn."""
        now_ns = time.monotonic_ns()
        for number in range(BATCH):
            if number and number % GROUP == 0:
                time.sleep(PAUSE_S)
            with self._lock:
                if not self._given:
                    break
                self._make(self._ordering.push(self._given.popleft(), now_ns))
                self._taken += 1
        with self._lock:
            self._make(self._ordering.expire(now_ns))

    def drain(self) -> None:
        """Wait for nothing any more that is not there; everything that was given has been collected."""
        with self._lock:
            if not self._given:
                self._make(self._ordering.drain())

    def _make(self, events: Iterable[Event]) -> None:
        for event in events:
            try:
                self._ready.append(Parcel(self._keys.key_of(event), event.source or "", record_of(event)))
            except Exception:  # noqa: BLE001 - an event may be anything; the next one must not suffer
                self.dropped["failed"] += 1

    def batch(self) -> list[Parcel]:
        """The oldest records, which stay until they are `gone`."""
        found: list[Parcel] = []
        size = 0
        with self._lock:
            for parcel in islice(self._ready, BATCH):
                found.append(parcel)
                size += len(parcel.data)
                if size >= BATCH_BYTES:
                    break
        return found

    def gone(self, batch: Sequence[Parcel], left: Sequence[Parcel] = ()) -> int:
        """These are where they were to go, without those that are `left`; gives how many, 0 where they were already."""
        with self._lock:
            if not (self._ready and self._ready[0] is batch[0]):
                return 0
            for _ in batch:
                self._ready.popleft()
            self._ready.extendleft(reversed(left))
            return len(batch) - len(left)

    def close(self) -> None:
        """Take nothing more."""
        self._closed = True

    def drop(self, reason: str) -> None:
        """Lose what is left, and count it."""
        with self._lock:
            if self.waiting:
                self.dropped[reason] += self.waiting
            self._given.clear()
            self._ready.clear()
            self._ordering = Ordering()
