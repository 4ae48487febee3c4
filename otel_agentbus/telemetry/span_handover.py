"""What a span processor does with its exporter (export, spill, flush, shut down), each outcome counted in the queue.

Nothing that an exporter raises comes out here, and what it does is not itself traced.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, detach, set_value
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from .span_queue import CHUNK

if TYPE_CHECKING:
    from .self_metrics import ProcessorMetrics
    from .span_queue import SpanQueue

_Spill = Callable[[list[ReadableSpan]], object]

_log = logging.getLogger("otel_agentbus.processor")

#: The longest that an exporter's own shutdown is waited for, in seconds.
GRACE_S = 0.25
#: How long one warning stands for all of its kind, in seconds.
_QUIET_S = 60.0
#: How often a spill of another thread is looked after, in seconds.
_LOOK_S = 0.002


class Handover:
    """One exporter; where it has a method `spill` it spools: then it has to account for whatever it is given."""

    def __init__(self, exporter: SpanExporter, queue: SpanQueue, metrics: ProcessorMetrics, batch_size: int) -> None:
        self.exporter = exporter
        self._queue = queue
        self._metrics = metrics
        self._batch_size = batch_size
        spill = getattr(exporter, "spill", None)
        self._spill: _Spill | None = spill if callable(spill) else None
        self._quiet_until: dict[str, float] = {}
        self.renew()

    def renew(self) -> None:
        """In the child of a fork: nothing was lost here yet."""
        self._told = (0, 0)

    @property
    def spools(self) -> bool:
        """Whether the exporter keeps what it is given and cannot deliver."""
        return self._spill is not None

    def export(self) -> bool:
        """Export one batch; False if there is none, or nothing may be exported any more."""
        batch = self._queue.depart(self._batch_size)
        if not batch:
            return False
        self._metrics.finished(len(batch))
        delivered = False
        try:
            with _suppressed():
                if self._queue.holds(batch):  # the time may have run out meanwhile
                    given = batch if self.spools else list(batch)  # its own, to do with what it likes
                    delivered = self.exporter.export(given) is SpanExportResult.SUCCESS
        except BaseException as error:  # noqa: BLE001 - here is no program to end; the worker outlives its exporter
            self.warn("export", "exporting spans failed: %r", error)
        finally:
            kept = delivered or self.spools
            if self._queue.arrive(batch, delivered=delivered, spools=self.spools) and not kept:
                self.warn("failed", "%d spans were not exported and are lost: the exporter has no spool", len(batch))
        return True

    def make_room(self, surplus: list[ReadableSpan]) -> None:
        """Spill these, which have left the queue, or drop them where there is no spool."""
        if self._spill is not None:
            self._spill_all(self._spill, surplus, CHUNK)
            return
        self._lose(len(surplus), "queue_full")
        self.warn("queue_full", "the queue of spans is full and the exporter has no spool: the oldest are dropped")

    def _spill_all(self, spill: _Spill, surplus: list[ReadableSpan], chunk: int, *, told: bool = False) -> None:
        """Spill these; `told` where the metrics have counted them already."""
        left = len(surplus)
        try:
            while left:
                start = len(surplus) - left
                whole = chunk >= len(surplus)  # then the very batch, that the exporter may know it again
                left -= self._spill_chunk(spill, surplus if whole else surplus[start : start + chunk], told)
        finally:
            if left:  # the thread was interrupted
                self._lose(left, "spill_failed", told=told)

    def _spill_chunk(self, spill: _Spill, chunk: list[ReadableSpan], told: bool) -> int:
        number = len(chunk)
        try:
            with _suppressed():
                spill(chunk)
        except Exception as error:  # noqa: BLE001 - this is the thread of the agent
            self._lose(number, "spill_failed", told=told)
            self.warn("spill_failed", "spans could not be spilled and are dropped: %r", error)
        else:
            self._queue.moved(number)
            if not told:
                self._metrics.finished(number)
        return number

    def _lose(self, number: int, reason: str, *, told: bool = False) -> None:
        self._queue.drop(number, reason)
        if not told:
            self._metrics.dropped(number)

    def flush(self, deadline: float) -> bool:
        """Flush the exporter until then; whether all that left the queue since the flush before is delivered."""
        milliseconds = int((deadline - time.monotonic()) * 1e3)
        if milliseconds <= 0:
            return False
        told, self._told = self._told, (self._queue.lost, self._queue.spooled)
        lost, spooled = self._told[0] > told[0], self._told[1] > told[1]
        said: list[bool | None] = []  # None: it does not say, as those without a buffer of their own
        flush: Callable[[int], bool | None] | None = getattr(self.exporter, "force_flush", None)
        self.quietly("force_flush", lambda: said.append(flush(milliseconds) if flush is not None else None))
        return not lost and said != [] and said[0] is not False and (said[0] is True or not spooled)

    def give_up(self, deadline: float) -> None:
        """Spill all that is in flight or queued, or count it as lost; nothing is exported any more."""
        in_flight, queued = self._queue.take_away()
        if (spill := self._spill) is not None:
            # The one in flight as a whole: an exporter that was given it before must know it again.
            whole = max(len(in_flight), 1)
            self.quietly("spill", lambda: self._spill_all(spill, in_flight, whole, told=True))
            self.quietly("spill", lambda: self._spill_all(spill, queued, self._batch_size))
            while self._queue.moving and time.monotonic() < deadline:  # others may be spilling still
                time.sleep(_LOOK_S)
            sync = getattr(self.exporter, "sync", None)
            if callable(sync) and self._queue.handed_over:
                self.quietly("sync", sync)
        elif in_flight or queued:
            self._lose(len(in_flight), "exit_timeout", told=True)
            self._lose(len(queued), "exit_timeout")
            lost = len(in_flight) + len(queued)
            self.warn(
                "exit_timeout", "%d spans were not exported in time and are lost: the exporter has no spool", lost
            )

    def shutdown(self) -> None:
        """Shut the exporter down."""
        self.quietly("shutdown", lambda: self._shut_down(self.exporter.shutdown))

    def _shut_down(self, shutdown: Callable[..., None]) -> None:
        try:
            timed = "timeout_millis" in inspect.signature(shutdown).parameters
        except (TypeError, ValueError):  # not written in Python
            timed = False
        shutdown(**({"timeout_millis": int(GRACE_S * 1e3)} if timed else {}))

    def quietly(self, name: str, action: Callable[[], object]) -> None:
        """Do this to the exporter; what it raises is only said."""
        try:
            with _suppressed():
                action()
        except BaseException as error:  # noqa: BLE001 - a failing exporter ends neither our threads nor the program
            self.warn(name, f"{name} of the span exporter failed: %r", error)

    def warn(self, about: str, message: str, *arguments: object) -> None:
        """Say it, but about the same thing once a minute at most."""
        now = time.monotonic()
        if now >= self._quiet_until.get(about, 0.0):
            self._quiet_until[about] = now + _QUIET_S
            _log.warning(message, *arguments)


@contextlib.contextmanager
def _suppressed() -> Iterator[None]:
    token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
    try:
        yield
    finally:
        detach(token)
