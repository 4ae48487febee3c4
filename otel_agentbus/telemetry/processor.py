"""A drop-in for the SDK's `BatchSpanProcessor` that loses nothing silently, tells the truth and ends in time.

What does not fit into its queue goes to the exporter's spool, where it has one (a method `spill`), oldest first. What
the end of the process leaves unsent goes there, too. What is lost, because the exporter failed and has no spool, is
counted. `on_end` takes a short lock and never waits for an export.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from weakref import WeakSet, ref

from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter

from otel_agentbus.settings import Settings

from .self_metrics import ProcessorMetrics
from .span_handover import GRACE_S, Handover
from .span_queue import SpanCounts, SpanQueue

_log = logging.getLogger("otel_agentbus.processor")

#: What spilling takes on a slow machine, for one span and beside that, in seconds.
_SPILL_S, _SPILLING_S = 100e-6, 0.1
#: The part of the time to exit that may be kept back for it, while exports come back and where none did for a while.
_RESERVE, _RESERVE_STUCK, _STUCK_S = 0.7, 0.9, 0.2
#: How long after a thread could not be started it is tried again, in seconds.
_RETRY_S = 1.0
#: "For ever" is more than a thread can be told.
_LONGEST_S = 86_400.0
_FLUSH_MILLIS = 30_000

_living: WeakSet[SpoolingBatchSpanProcessor] = WeakSet()


@dataclass(slots=True, eq=False)
class _Flush:
    """Somebody waits until all that came in before this position is exported."""

    position: int
    deadline: float
    succeeded: bool = False
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True, eq=False)
class _Crew:
    """The threads of one process and their mail: a forked child makes its own, those of its parent are not there.

    The worker exports; the closer has nothing to do but to end things where the worker hangs in an export: at the
    end of the process no thread can be started any more. Mail is a `SimpleQueue`, to which also a `__del__` or a
    signal handler may write at any moment.
    """

    hiring: threading.RLock = field(default_factory=threading.RLock)
    mail: SimpleQueue[_Flush | None] = field(default_factory=SimpleQueue)
    to_closer: SimpleQueue[float] = field(default_factory=SimpleQueue)
    worker: threading.Thread | None = None
    closer: threading.Thread | None = None
    starting: bool = False
    retry_at: float = 0.0
    woken: bool = False
    flushes: set[_Flush] = field(default_factory=set)
    #: Until when, where the worker itself was told to shut down, from within an export.
    own_end: float | None = None
    drained: threading.Event = field(default_factory=threading.Event)
    handed_over: threading.Event = field(default_factory=threading.Event)
    closed: threading.Event = field(default_factory=threading.Event)


class SpoolingBatchSpanProcessor(SpanProcessor):
    """Collects ended spans and exports them in batches, in a thread that the first span starts.

    Arguments are those of `BatchSpanProcessor`; where one is None the `OTEL_BSP_*` variables decide. Beyond
    `max_queue_size` spans, or about `max_queue_bytes` bytes, the oldest are given to `span_exporter.spill(spans)`,
    which says how many it could not keep (and counts them itself); an exporter without that loses them, counted.
    Beside the queue at most one batch is in memory, and what each thread that makes room is spilling (64 spans,
    or as many as a large one pushes out).

    `shutdown` ends within `exit_timeout` seconds whatever the exporter does. One exception: where the first span
    ended when no thread could be started any more, an exporter without a spool is called by `shutdown` itself.
    """

    def __init__(
        self,
        span_exporter: SpanExporter,
        max_queue_size: int | None = None,
        schedule_delay_millis: float | None = None,
        max_export_batch_size: int | None = None,
        export_timeout_millis: float | None = None,
        *,
        meter_provider: MeterProvider | None = None,
        max_queue_bytes: int = 64 * 1024 * 1024,
        exit_timeout: float = 2.0,
    ) -> None:
        if max_queue_size is None or schedule_delay_millis is None or max_export_batch_size is None:
            settings = Settings()
            max_queue_size = settings.bsp_max_queue_size if max_queue_size is None else max_queue_size
            if schedule_delay_millis is None:
                schedule_delay_millis = settings.bsp_schedule_delay_ms
            if max_export_batch_size is None:
                max_export_batch_size = settings.bsp_max_export_batch_size
        _check(max_queue_size, schedule_delay_millis, max_export_batch_size, max_queue_bytes)
        #: As in the SDK's processor it is taken and not used: an export's time is its exporter's.
        self.export_timeout_millis = export_timeout_millis
        self._delay = min(schedule_delay_millis / 1e3, _LONGEST_S)
        self._batch_size = max_export_batch_size
        self._exit_timeout = exit_timeout
        self._queue = SpanQueue(max_queue_size, max_queue_bytes, spills=callable(getattr(span_exporter, "spill", None)))
        queue = ref(self._queue)  # the meter provider may outlive us
        self._metrics = ProcessorMetrics(meter_provider, max_queue_size, lambda: len(queue() or ()))
        self._handover = Handover(span_exporter, self._queue, self._metrics, max_export_batch_size)
        self._crew = _Crew()
        self._abandoned = False
        _living.add(self)

    @property
    def span_exporter(self) -> SpanExporter:
        """The exporter that this processor was made with."""
        return self._handover.exporter

    @property
    def counts(self) -> SpanCounts:
        """What became of the spans, all numbers of one moment; each has a property of its own, too."""
        return self._queue.counts

    @property
    def taken(self) -> int:
        """See `SpanCounts.taken`."""
        return self._queue.taken

    @property
    def exported(self) -> int:
        """See `SpanCounts.exported`."""
        return self._queue.exported

    @property
    def handed_over(self) -> int:
        """See `SpanCounts.handed_over`."""
        return self._queue.handed_over

    @property
    def failed(self) -> int:
        """See `SpanCounts.failed`."""
        return self._queue.failed

    @property
    def dropped(self) -> Counter[str]:
        """See `SpanCounts.dropped`; a copy."""
        return self._queue.counts.dropped

    @property
    def waiting(self) -> int:
        """See `SpanCounts.waiting`."""
        return self._queue.waiting

    @property
    def position(self) -> int:
        """How many spans have come so far; `settled` tells when nothing of them is in memory only."""
        return self._queue.position

    def settled(self, position: int) -> bool:
        """Whether the spans that had come at this position were delivered, handed to the spool, or lost and counted."""
        return self._queue.settled(position)

    @property
    def queued_bytes(self) -> int:
        """See `SpanCounts.queued_bytes`."""
        return self._queue.bytes

    @property
    def spilling_s(self) -> float:
        """About how long it takes to spill what waits now, in seconds; 0 where the exporter has no spool."""
        return self.waiting * _SPILL_S + _SPILLING_S if self._handover.spools else 0.0

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Spans are of interest when they end."""

    def _on_ending(self, span: Span) -> None:
        """Nothing is changed in a span that ends."""

    def on_end(self, span: ReadableSpan) -> None:
        """Take this span, if it is sampled."""
        if not (span.context and span.context.trace_flags.sampled):
            return
        surplus = self._queue.offer(span)
        if surplus is None:
            if self._abandoned:
                return
            self._metrics.refused(1)
            self._handover.warn("already_shutdown", "spans that end after the shutdown are dropped")
            return
        crew = self._crew
        if crew.worker is None:
            self._start(crew)
        if len(self._queue) >= self._batch_size and not crew.woken:
            crew.woken = True
            crew.mail.put(None)
        if surplus:
            self._handover.make_room(surplus)

    def force_flush(self, timeout_millis: int | None = None) -> bool:
        """Export what is queued; True only if all that ended before, since the flush before, was delivered.

        Delivered means that its export answered SUCCESS, or that it went to the exporter's spool and the exporter's
        own `force_flush` says True; and in any case that the latter does not say False. False after the timeout
        (30 s if None), after shutdown, and from within an export.
        """
        crew = self._crew
        if self._queue.closed or threading.current_thread() in (crew.worker, crew.closer):
            return False
        if crew.worker is None and self._queue.taken:
            self._start(crew)
        if crew.worker is None:
            return not self._queue.taken
        timeout = min(max(_FLUSH_MILLIS if timeout_millis is None else timeout_millis, 0) / 1e3, _LONGEST_S)
        flush = _Flush(self._queue.position, time.monotonic() + timeout)
        crew.flushes.add(flush)
        crew.mail.put(flush)
        if not self._queue.closed:  # else nobody may be left to answer
            flush.done.wait(timeout)
        crew.flushes.discard(flush)
        return flush.succeeded

    def shutdown(self, timeout: float | None = None) -> None:
        """Take no more spans, export what is queued while there is time, spill the rest, shut the exporter down.

        Ends within `timeout` seconds, `exit_timeout` if None. From within an export it returns at once, and the rest
        is done when that export ends. Once is enough: further calls do nothing.
        """
        deadline = time.monotonic() + (self._exit_timeout if timeout is None else max(timeout, 0))
        if not self._queue.close():
            return
        crew = self._crew
        with crew.hiring:  # nobody is hired from now on
            worker = crew.worker
        if worker is threading.current_thread():
            crew.own_end = deadline
            return
        if worker is not None:
            crew.mail.put(None)
            self._await_worker(crew, deadline)
        self._end(crew, deadline)

    def _start(self, crew: _Crew) -> None:
        """Start the threads; where that cannot be (at exit), spans wait in the queue for `shutdown`."""
        with crew.hiring:
            now = time.monotonic()
            if crew.worker is not None or crew.starting or now < crew.retry_at or self._queue.closed:
                return
            crew.starting = True
            try:
                crew.closer = crew.closer or _started(self._close, crew, "closer")
                crew.worker = _started(self._work, crew, "worker")
            except RuntimeError:
                crew.retry_at = now + _RETRY_S
            finally:
                crew.starting = False

    def _work(self, crew: _Crew) -> None:
        """In the worker: a full batch is exported at once, anything else when the delay is over."""
        due = time.monotonic() + self._delay
        while not self._queue.closed and crew is self._crew:
            timed_out, flush = False, None
            try:
                flush = crew.mail.get(timeout=_until(due))
            except Empty:
                timed_out = True
            crew.woken = False
            if flush is not None:
                self._flush(flush)
            elif timed_out:
                self._handover.export()
            if self._export_full() or timed_out or flush is not None:
                due = time.monotonic() + self._delay
        while crew is self._crew and self._handover.export():
            pass
        crew.drained.set()
        if crew.own_end is not None:
            self._end(crew, crew.own_end)

    def _export_full(self) -> bool:
        """Export while there are full batches; whether there was one."""
        some = False
        while len(self._queue) >= self._batch_size and self._handover.export():
            some = True
        return some

    def _flush(self, flush: _Flush) -> None:
        try:
            while not (passed := self._queue.passed(flush.position)):
                if time.monotonic() >= flush.deadline or not self._handover.export():
                    break
            if passed and not self._queue.closed:
                flush.succeeded = self._handover.flush(flush.deadline)
        finally:
            flush.done.set()

    def _await_worker(self, crew: _Crew, deadline: float) -> None:
        """Wait until the worker has exported all, or what is left needs the time that is left."""
        moved_at = time.monotonic()
        whole, waiting = deadline - moved_at, self.waiting
        while True:
            now = time.monotonic()
            if self.waiting != waiting:
                moved_at, waiting = now, self.waiting
            most = whole * (_RESERVE_STUCK if now - moved_at > _STUCK_S else _RESERVE)
            spare = deadline - now - min(self.spilling_s + GRACE_S, most)
            if spare <= 0 or crew.drained.wait(min(spare, 0.05)):
                return

    def _end(self, crew: _Crew, deadline: float) -> None:
        """Have the closer keep what is left; nothing is exported any more."""
        for flush in list(crew.flushes):
            flush.done.set()
        crew.to_closer.put(deadline)
        if crew.closer is None:
            try:
                crew.closer = _started(self._close, crew, "closer")
            except RuntimeError:  # at exit, and no span has started it before
                self._close(crew)
                return
        if not crew.handed_over.wait(_until(deadline)) and self.waiting:
            _log.warning("%d spans are not spilled yet, and the time to shut down is over", self.waiting)
        crew.closed.wait(min(GRACE_S, _until(deadline)))

    def _close(self, crew: _Crew) -> None:
        """In the closer: keep or count what is left, then shut the exporter down. A slow spool is not cut short."""
        deadline = crew.to_closer.get()
        if crew.worker is None and not self._handover.spools:  # nobody has exported anything
            while time.monotonic() < deadline and self._handover.export():
                pass
        self._handover.give_up(deadline)
        crew.handed_over.set()
        self._handover.shutdown()
        crew.closed.set()

    def abandon(self) -> None:
        """In the child of a fork: begin anew, and closed; what ends from now on is no business of this processor."""
        self._after_fork()
        self._queue.closed = self._abandoned = True

    def _after_fork(self) -> None:
        """In the child: the spans, and whoever waits for them, are the parent's; no thread of it is here."""
        closed = self._queue.closed
        self._queue.renew()
        self._queue.closed = closed
        self._handover.renew()
        self._crew = _Crew()


def _check(spans: int, delay: float, batch: int, size: int) -> None:
    """The complaints of the SDK, in its words."""
    if spans <= 0:
        raise ValueError("max_queue_size must be a positive integer.")
    if delay <= 0:
        raise ValueError("schedule_delay_millis must be positive.")
    if batch <= 0:
        raise ValueError("max_export_batch_size must be a positive integer.")
    if batch > spans:
        raise ValueError("max_export_batch_size must be less than or equal to max_queue_size.")
    if size <= 0:
        raise ValueError("max_queue_bytes must be a positive integer.")


def _until(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0)


def _started(target: Callable[[_Crew], None], crew: _Crew, role: str) -> threading.Thread:
    thread = threading.Thread(target=target, args=(crew,), name=f"otel-agentbus-spans-{role}", daemon=True)
    thread.start()
    return thread


def _after_fork_in_child() -> None:
    for processor in list(_living):
        processor._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
