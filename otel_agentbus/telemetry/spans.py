"""SpanBridge: events in, spans out. A plain callable for a router, a ring, or anything else that has events."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable

from opentelemetry.trace import TracerProvider

from ..events import Event, UnknownEvent
from .aliases import conventions_of
from .careful import CarefulWriter
from .ids import Ids
from .names import Flavour
from .ordering import SOURCES, Ordering
from .pairing import Source
from .tracer import can_prepare, our_tracer
from .writer import SpanWriter

_log = logging.getLogger("otel_agentbus.spans")


class SpanBridge:
    """Turns the events of any number of sources into spans of a tracer provider (the SDK's, or one built on it).

    Each source's events are applied in the order of their `seq`, whatever order they come in; what they are told twice
    is counted and left out. Spans are live: started when their start is applied, ended when their end is. Handlers may
    call it from any thread. `flush()` applies what waits behind a gap; `close()` judges all that is open.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider,
        *,
        conventions: Flavour = "1.41",
        aliases: Collection[str] = (),
        capture: str = "NO_CONTENT",
        id_key: bytes = b"",
        grace: float = 2.0,
        max_open_spans: int = 10_000,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._grace_ns = round(grace * 1e9)
        self._max_open = max_open_spans
        self._lock = threading.RLock()
        self._ordering = Ordering()
        self._sources: OrderedDict[str, Source] = OrderedDict()
        tracer = our_tracer(tracer_provider)
        #: Whether spans get our ids: a tracer that is not the SDK's takes none, and blocks make their own spans there.
        self.works = can_prepare(tracer)
        writer = SpanWriter(tracer, Ids(id_key), conventions_of(conventions, aliases), capture)
        self._writer = CarefulWriter(writer, self._failed)

    def __call__(self, event: Event) -> None:
        """Take one event; never raises."""
        if not self.works:
            return
        with self._lock:
            try:
                self._take(event)
            except Exception:  # noqa: BLE001 - an event may be anything; the next one must not suffer
                self._failed()

    def _take(self, event: Event) -> None:
        ordering = self._ordering
        if ordering.in_turn(event):
            self._apply_one(event)
        else:
            self._apply(ordering.push(event, time.monotonic_ns()))
        if ordering.held:
            self._apply(ordering.expire(time.monotonic_ns()))
        if self._writer.open_spans > self._max_open:
            self._evict()

    def tick(self, now_ns: int | None = None) -> None:
        """Let time pass where no event comes: gaps are given up, and what has waited for its grace is judged."""
        with self._lock:
            self._apply(self._ordering.expire(time.monotonic_ns()))
            if not self._ordering.held:
                wall_ns = time.time_ns() if now_ns is None else now_ns
                for source in list(self._sources.values()):
                    self._isolated(source.expire, wall_ns)

    def flush(self) -> None:
        """Apply what waits behind a gap; nothing is judged incomplete."""
        with self._lock:
            self._apply(self._ordering.drain())

    def close(self) -> None:
        """Apply what is held and judge everything: what is open ends as interrupted when it was last heard of."""
        with self._lock:
            self.flush()
            for name in sorted(self._sources):
                self._isolated(self._sources.pop(name).close)

    def interrupt(self, root: str) -> int:
        """Nothing more is to come of this tree: what is open in it ends as interrupted when it was last heard of.

        Gives how many spans that were; what comes of the tree after all is told as of any other.
        """
        with self._lock:
            before = self.counts["interrupted"]
            for source in tuple(self._sources.values()):
                self._isolated(source.interrupt, root)
            return self.counts["interrupted"] - before

    @property
    def open_spans(self) -> int:
        """How many spans have begun and not ended."""
        return sum(source.open_spans for source in tuple(self._sources.values()))

    @property
    def ended(self) -> int:
        """How many spans have ended that are to be exported."""
        return self._writer.ended

    def health(self) -> dict[str, int]:
        """What was left out, and why. It takes no lock: whoever asks must not wait for a processor that hangs."""
        elsewhere, elsewhere_ended = self._writer.elsewhere
        return {
            "duplicate": self.counts["duplicate"] + self._ordering.duplicates,
            "skipped": self._ordering.skipped,
            "held": self._ordering.held,
            "unknown": self.counts["unknown"],
            "failed": self.counts["failed"],
            "interrupted": self.counts["interrupted"],
            "open": self.open_spans - (elsewhere - elsewhere_ended),
            "begun": self._writer.begun - elsewhere + self._writer.moments,
            "elsewhere": elsewhere,
            "ended": self._writer.ended,
            "unsampled": self._writer.unsampled,
        }

    def _apply(self, events: Iterable[Event]) -> None:
        for event in events:
            self._apply_one(event)

    def _apply_one(self, event: Event) -> None:
        if isinstance(event, UnknownEvent):
            self.counts["unknown"] += 1
            return
        try:
            self._source(event.source or "").apply(event)
        except Exception:  # noqa: BLE001 - an event may be anything; the next one must not suffer
            self._failed()

    def _source(self, name: str) -> Source:
        source = self._sources.get(name)
        if source is None:
            source = self._sources[name] = Source(name, self._writer, self._grace_ns, self._count)
            if len(self._sources) > SOURCES:
                self._forget_a_source(name)
        elif len(self._sources) > 1:
            self._sources.move_to_end(name)
        return source

    def _forget_a_source(self, newest: str) -> None:
        """Of those in which no span is open, the one that has been silent longest; what waits in it is judged."""
        quiet = (name for name, source in self._sources.items() if name != newest and not source.open_spans)
        name = next(quiet, None)
        if name is not None:
            self._isolated(self._sources.pop(name).close)

    def _isolated(self, function: Callable[..., None], *args: object) -> None:
        try:
            function(*args)
        except Exception:  # noqa: BLE001 - an event may be anything; the next one must not suffer
            self._failed()

    def _failed(self) -> None:
        """Count what could not be made into a span, and log some of it; called where it is being handled."""
        self.counts["failed"] += 1
        if self.counts["failed"] in (1, 10, 100, 1000):
            _log.exception("An event could not be made into a span (%d so far)", self.counts["failed"])

    def _count(self, what: str) -> None:
        self.counts[what] += 1

    def _evict(self) -> None:
        """Keep the table of open spans bounded: interrupt the runs that have been idle longest, a hundredth at once."""
        open_spans = self.open_spans
        target = self._max_open - self._max_open // 100
        while open_spans > target:
            since = {name: source.idle_since_ns for name, source in self._sources.items()}
            idle = [(at_ns, name) for name, at_ns in since.items() if at_ns is not None]
            if not idle:
                return
            open_spans -= self._sources[min(idle)[1]].evict()  # none where a run only waits, but then it waits no more
