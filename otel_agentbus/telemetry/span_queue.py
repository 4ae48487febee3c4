"""The bounded queue of ended spans in front of an exporter, and the account of what became of each of them."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from sys import getsizeof
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan

from .flight import Flight

#: The most spans that make room at once.
CHUNK = 64
#: What a span, and an event or link of it, takes without its attributes; an attribute without the length of a text.
_SPAN, _PART, _ATTRIBUTE = 1_500, 300, 150
#: From this length on it matters that a text may take up to four bytes a character.
_LONG = 1_000


def weight(span: ReadableSpan) -> int:
    """About how many bytes of memory this span takes; cheap (a microsecond or two), and never an error."""
    try:
        size = _SPAN + _attributes(span)
        # The SDK's own attributes where it has them: in public they are copies, made under a lock.
        for event in getattr(span, "_events", None) or ():
            size += _PART + _attributes(event)
        for link in getattr(span, "_links", None) or ():
            size += _PART + _attributes(link)
        return size
    except Exception:  # noqa: BLE001 - a strange span is taken like any other; only its size is not known
        return _SPAN


def _attributes(owner: Any) -> int:
    attributes = getattr(owner, "_attributes", None)
    if attributes is None:
        attributes = owner.attributes
    attributes = getattr(attributes, "_dict", attributes)
    return _content(attributes.values()) if attributes else 0


def _content(values: Collection[Any]) -> int:
    size = _ATTRIBUTE * len(values)
    for value in values:
        kind = type(value)
        if kind is str:
            size += len(value) if len(value) < _LONG else getsizeof(value)
        elif kind is not int and kind is not float and kind is not bool:
            size += _size(value)
    return size


def _size(value: Any) -> int:
    if isinstance(value, str | bytes):
        return getsizeof(value)
    if isinstance(value, Mapping):
        return _content(value.values())
    return _content(value) if isinstance(value, Collection) else 0


@dataclass(frozen=True, slots=True)
class SpanCounts:
    """What became of the spans of one processor: each is taken once and then is in exactly one of the next five.

    `taken == exported + handed_over + failed + dropped.total() + waiting`, at any moment.
    """

    #: Sampled spans that ended, those included that came after the shutdown.
    taken: int
    #: Their export answered SUCCESS.
    exported: int
    #: Spilled to an exporter with a spool, or exported to it without SUCCESS: the exporter has to account for them.
    handed_over: int
    #: Their export did not answer SUCCESS, or raised, and the exporter has no spool.
    failed: int
    #: Lost here, by reason. queue_full: no room and no spool. spill_failed: `spill` raised. exit_timeout: no spool,
    #: and not exported when the time to shut down was over. already_shutdown: ended later than that.
    dropped: Counter[str]
    #: Queued, being exported, or being spilled.
    waiting: int
    #: About how many bytes of memory the queued ones take.
    queued_bytes: int


class SpanQueue:
    """Spans in the order in which they ended, bounded by number and by bytes, and where each of them went.

    A span is taken once, waits (queued, being exported, or being spilled), and leaves by one of four ways, so that at
    any moment the sum of `SpanCounts` holds. Every method is safe to call
    from any thread, and from code that interrupts another call of the same thread (`__del__`, a signal handler).
    """

    def __init__(self, max_spans: int, max_bytes: int, *, spills: bool) -> None:
        self._max_spans = max_spans
        self._max_bytes = max_bytes
        # Room for some more is made at once where each time costs a write.
        self._spans_kept = max_spans - (max(1, min(CHUNK, max_spans // 4)) if spills else 0)
        self._bytes_kept = max_bytes - (max_bytes // 16 if spills else 0)
        self.renew()

    def renew(self) -> None:
        """Begin anew with nothing: at first, and in the child of a fork, to which its parent's spans do not belong."""
        self._lock = threading.RLock()  # reentrant: a span may end in a __del__ that interrupts us
        self._queue: deque[tuple[ReadableSpan, int]] = deque()
        #: Whether no more spans are taken.
        self.closed = False
        self._in_flight: Flight | None = None
        self._departed_at = 0  # the position of the first span in flight
        self._moving = 0
        #: Bytes of what is queued, estimated.
        self.bytes = 0
        self.taken = 0
        self.exported = 0
        self.handed_over = 0
        self.failed = 0
        self.dropped: Counter[str] = Counter()
        #: How many of those that left the queue for good were lost, and how many went to a spool instead.
        self.lost = 0
        self.spooled = 0

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def waiting(self) -> int:
        """Spans that are queued, being exported or being spilled."""
        with self._lock:
            return len(self._queue) + self._moving + len(self._in_flight or ())

    @property
    def moving(self) -> int:
        """Spans that are surplus and neither spilled nor dropped yet."""
        return self._moving

    @property
    def counts(self) -> SpanCounts:
        """All numbers, as they were at one moment."""
        with self._lock:
            return SpanCounts(
                taken=self.taken,
                exported=self.exported,
                handed_over=self.handed_over,
                failed=self.failed,
                dropped=Counter(self.dropped),
                waiting=self.waiting,
                queued_bytes=self.bytes,
            )

    @property
    def position(self) -> int:
        """How many spans have come into the queue so far: with `passed`, tells when all of them have left it."""
        with self._lock:
            return self.taken - self.dropped["already_shutdown"]

    def passed(self, position: int) -> bool:
        """Whether the spans that had come in at this position have left the queue."""
        with self._lock:
            return self.position - len(self._queue) >= position

    def settled(self, position: int) -> bool:
        """Whether of the spans that had come in at this position none is in memory only."""
        with self._lock:
            in_flight = self._in_flight is not None and self._departed_at < position
            return not (in_flight or self._moving) and self.passed(position)

    def offer(self, span: ReadableSpan) -> list[ReadableSpan] | None:
        """Take this span; gives the oldest ones, which now are the caller's to move elsewhere (see `moved`, `drop`).

        None if the queue is closed: then the span is counted as dropped.
        """
        item = (span, weight(span))
        with self._lock:
            self.taken += 1
            if self.closed:
                self.dropped["already_shutdown"] += 1
                return None
            self._queue.append(item)
            self.bytes += item[1]
            if len(self._queue) <= self._max_spans and self.bytes <= self._max_bytes:
                return []
            return self._surplus()

    def _surplus(self) -> list[ReadableSpan]:
        surplus = []
        while self._queue and (len(self._queue) > self._spans_kept or self.bytes > self._bytes_kept):
            surplus.append(self._pop())
        self._moving += len(surplus)
        self.spooled += len(surplus)  # from now on: a flush that ends while they are moved must know
        return surplus

    def _pop(self) -> ReadableSpan:
        span, size = self._queue.popleft()
        self.bytes -= size
        return span

    def moved(self, number: int) -> None:
        """So many of the surplus were given to the exporter's spool."""
        with self._lock:
            self._moving -= number
            self.handed_over += number

    def drop(self, number: int, reason: str) -> None:
        """So many of the surplus are lost."""
        with self._lock:
            self._moving -= number
            self.spooled -= number
            self.lost += number
            self.dropped[reason] += number

    def depart(self, number: int) -> Flight:
        """The oldest spans, up to so many, for an export that `arrive` ends; one export at a time."""
        with self._lock:
            self._departed_at = self.position - len(self._queue)
            batch = Flight(self._pop() for _ in range(min(number, len(self._queue))))
            self._in_flight = batch or None
            return batch

    def arrive(self, batch: list[ReadableSpan], *, delivered: bool, spools: bool) -> bool:
        """The export of these is over; False if they have been taken away from it meanwhile."""
        with self._lock:
            if self._in_flight is not batch:
                return False
            self._in_flight = None
            number = len(batch)
            if delivered:
                self.exported += number
            elif spools:
                self.handed_over += number
                self.spooled += number
            else:
                self.failed += number
                self.lost += number
            return True

    def holds(self, batch: list[ReadableSpan]) -> bool:
        """Whether this export is still the exporter's to do."""
        return self._in_flight is batch

    def close(self) -> bool:
        """Take no more spans; whether it was open."""
        with self._lock:
            was_open, self.closed = not self.closed, True
            return was_open

    def take_away(self) -> tuple[list[ReadableSpan], list[ReadableSpan]]:
        """What is in flight and what is queued, as surplus; of a closed queue nothing departs after that."""
        with self._lock:
            in_flight: list[ReadableSpan] = self._in_flight or []
            self._in_flight = None
            rest = [self._pop() for _ in range(len(self._queue))]
            self._moving += len(in_flight) + len(rest)
            self.spooled += len(in_flight) + len(rest)
            return in_flight, rest
