"""Each source's events in the order in which they were emitted: by `seq`, each once, gaps waited for and then skipped.

Below a source's watermark everything has been applied, so what comes again from there is a duplicate, and no memory of
single events is needed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..events import Event

#: How long a gap is waited for. On a busy machine a thread may be kept waiting between the number of its event and the
#: ring, and what comes after its turn is over is lost.
GAP_NS = 1_000_000_000
#: How many events are held behind a gap at the most.
GAP_EVENTS = 8192
#: How many sources are remembered: a relay hears of processes that come and go.
SOURCES = 4096


@dataclass(slots=True)
class _Queue:
    """One source: the next number to apply, and what came too early."""

    next_seq: int = 0
    held: dict[int, Event] = field(default_factory=dict)
    since_ns: int = 0


class Ordering:
    """Holds back what came too early; gives each event once, in order."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, _Queue] = OrderedDict()
        self._latest: object = self  # no source yet
        self._latest_queue = _Queue()
        self.duplicates = 0
        self.skipped = 0
        #: How many events wait behind a gap.
        self.held = 0

    def __len__(self) -> int:
        """How many sources are remembered."""
        return len(self._queues)

    def in_turn(self, event: Event) -> bool:
        """Whether this event's turn is now: the next one of the source that was heard last. Most are; push others."""
        queue = self._latest_queue
        if event.source != self._latest or event.seq != queue.next_seq or queue.held:
            return False
        queue.next_seq += 1
        return True

    def push(self, event: Event, now_ns: int) -> Iterator[Event]:
        """Take one event; gives those whose turn it is. An event without a number has no order and no double."""
        source, seq = event.source, event.seq
        if source is None or seq is None:
            yield event
            return
        queue = self._queues.get(source) or self._remember(source)
        if source != self._latest:
            self._queues.move_to_end(source)
            self._latest, self._latest_queue = source, queue
        if seq == queue.next_seq and not queue.held:
            queue.next_seq += 1
            yield event
            return
        if seq < queue.next_seq or seq in queue.held:
            self.duplicates += 1
            return
        if not queue.held:
            queue.since_ns = now_ns
        queue.held[seq] = event
        self.held += 1
        if len(queue.held) > GAP_EVENTS:
            self._skip_to_first(queue)
        yield from self._ready(queue, now_ns)

    def expire(self, now_ns: int) -> Iterator[Event]:
        """Give up on gaps that have been waited for long enough."""
        for queue in list(self._queues.values()):
            if queue.held and now_ns - queue.since_ns >= GAP_NS:
                self._skip_to_first(queue)
                yield from self._ready(queue, now_ns)

    def drain(self) -> Iterator[Event]:
        """Give all that is held, the sources by the time of their first event, each in its own order."""
        waiting = [queue for queue in self._queues.values() if queue.held]
        waiting.sort(key=lambda queue: _age(queue.held[min(queue.held)]))
        for queue in waiting:
            while queue.held:
                self._skip_to_first(queue)
                yield from self._ready(queue, 0)

    def _remember(self, source: str) -> _Queue:
        if len(self._queues) >= SOURCES:
            quiet = next((name for name, queue in self._queues.items() if not queue.held), None)
            if quiet is not None:
                del self._queues[quiet]
        queue = self._queues[source] = _Queue()
        return queue

    def _skip_to_first(self, queue: _Queue) -> None:
        first = min(queue.held)
        self.skipped += max(first - queue.next_seq, 0)
        queue.next_seq = max(queue.next_seq, first)

    def _ready(self, queue: _Queue, now_ns: int) -> Iterator[Event]:
        held = queue.held
        while (event := held.pop(queue.next_seq, None)) is not None:
            queue.next_seq += 1
            queue.since_ns = now_ns  # what is left waits for another gap
            self.held -= 1
            yield event


def _age(event: Event) -> tuple[int, str, int]:
    return event.time_ns or 0, event.source or "", event.seq or 0
