"""A span exporter around any other that loses nothing: what the endpoint does not take waits on disk and is sent again.

While the endpoint answers, nothing is written, not even a directory. Usable under any span processor.
"""

from __future__ import annotations

import logging
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Self

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_agentbus.journal import Journal, SegmentJournal
from otel_agentbus.settings import Settings
from otel_agentbus.targets import Target

from ..flight import Flight
from ..otlp import Batch
from ..senders.foreign import ForeignSender
from ..senders.verdict import Sender
from . import exits
from .complaints import Complaints
from .counts import SpoolCounts
from .courier import Courier
from .dead_letters import DeadLetters
from .directories import Place, describe, is_read_only, place_of
from .off import Off
from .store import Backing, OnLoss, Store

_log = logging.getLogger("otel_agentbus.spool")
_READ_ONLY: Final = "%s is read-only: spans that the endpoint does not take wait in memory, a little, and go with it"

MAX_BYTES: Final = 256 * 1024 * 1024
MAX_AGE_S: Final = 7 * 24 * 3600.0
#: The part of `max_bytes` that dead letters may take beside it.
_LETTERS: Final = 8


class SpoolingSpanExporter(SpanExporter):
    """Exports through `inner`, and keeps what it does not take in `directory`, to send it again when it does.

    Args:
        inner: A `Sender`, or any `SpanExporter`, of which only success, failure and silence are known.
        directory: Where the spools of all endpoints lie; each has its own inside, named after endpoint, protocol and
            headers. Or a journal of your own; or None for none: then spans wait in memory, a little, and go with it.
            So they do where the directory is read-only.
        max_bytes: What the spool may take; beyond it the oldest are dropped and counted.
        max_age: Seconds that spans may wait.
        timeout: Seconds that a batch may wait for its turn, and then for its answer.
        exit_timeout: Seconds that `shutdown()`, or all exports of an interpreter that ends, may take.
        key: The name of the endpoint's directory, where what `inner` shows of itself does not tell it apart.
        on_loss: Called with a reason and a number, in any thread, when spans are lost or refused for good.

    """

    def __init__(
        self,
        inner: SpanExporter | Sender,
        directory: str | Path | Journal | None,
        *,
        max_bytes: int = MAX_BYTES,
        max_age: float | None = MAX_AGE_S,
        timeout: float = 10.0,
        exit_timeout: float = 2.0,
        key: str | None = None,
        on_loss: OnLoss | None = None,
    ) -> None:
        sender = ForeignSender(inner, timeout) if isinstance(inner, SpanExporter) else inner
        complaints = Complaints()
        place = place_of(inner, key)
        #: The endpoint's own directory; None where there is none.
        # Absolute: a daemon changes to another directory later.
        self.directory = Path(directory).absolute() / place.key if isinstance(directory, str | Path) else None
        letters = None if self.directory is None else DeadLetters(self.directory, max_bytes // _LETTERS)
        if self.directory is not None and is_read_only(self.directory):
            directory = None
        open_journal, prepare = _journal(directory, self.directory, place, max_bytes, max_age)
        self._store = Store(open_journal, prepare, letters, sender.name, complaints, on_loss)
        self._courier = Courier(sender, self._store, complaints, timeout=timeout, exit_timeout=exit_timeout)
        self._exit_timeout = exit_timeout
        self._foreign = isinstance(sender, ForeignSender)
        self._used = False
        #: How many were lost when that was asked for the last time.
        self._told = 0
        exits.watch(self._courier)
        self._unused = weakref.finalize(self, self._courier.abandon)
        self._unused.atexit = False
        self._courier.start()

    @classmethod
    def to(cls, target: Target, directory: str | Path | None, **options: Any) -> Self:
        """The same around the sender for this target, with its timeout; raises ConfigurationError."""
        return cls(sender_to(target), directory, **{"timeout": target.timeout, **options})

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """SUCCESS if the endpoint took them; else they are in the spool, or counted, and it is FAILURE."""
        if not self._used:
            self._used = True
            exits.be_first()  # also before the handler of a provider that was made after us
        if isinstance(spans, Flight) and not spans.claim():  # its processor could not wait, and has spilled it
            return SpanExportResult.FAILURE
        batch, items = self._taken(spans)
        if not items:
            return SpanExportResult.FAILURE if spans else SpanExportResult.SUCCESS
        delivered = self._courier.send(batch, items)
        return SpanExportResult.SUCCESS if delivered else SpanExportResult.FAILURE

    def spill(self, spans: Sequence[ReadableSpan]) -> int:
        """Straight to the spool, without trying; how many could not be kept (and were counted)."""
        if self._courier.take_back(spans):  # a processor that gave up waiting for `export()`
            return 0
        if isinstance(spans, Flight) and not spans.claim():  # `export()` has it, or has accounted for it
            return 0
        batch, items = self._taken(spans)
        return len(spans) - (self._courier.keep(batch, items) if items else 0)

    def _taken(self, spans: Sequence[ReadableSpan]) -> tuple[Batch, int]:
        """The batch, and how many of its spans can be sent."""
        batch = Batch(spans=tuple(spans))
        self._store.take(len(spans))
        if self._foreign:  # it encodes them itself, if at all
            return batch, len(spans)
        try:
            left_out = batch.left_out
        except Exception:  # noqa: BLE001 - a span that cannot be read must not raise into the agent
            left_out = len(spans)
        if left_out:
            self._store.drop("encoding", left_out)
        return batch, len(spans) - left_out

    def abandon(self) -> None:
        """In the child of a fork: begin anew with nothing, and send nothing; what is open is the parent's."""
        self._courier.after_fork()
        self._courier.abandon()
        self._unused.detach()

    def sync(self) -> None:
        """Have what is spooled on the disk itself, so that a power failure does not lose it."""
        self._store.sync()

    def force_flush(self, timeout_millis: float = 30_000) -> bool:
        """Try the backlog now, without waiting for its turn.

        True if all that this process gave has been delivered, and nothing was refused or lost since the flush before.
        """
        told, flushed = self._told, self._courier.flush(time.monotonic() + timeout_millis / 1000)
        self._told = _lost(self.counts)
        return flushed and self._told == told

    def shutdown(self, timeout_millis: float | None = None) -> None:
        """Stop sending, within `exit_timeout`; what is not answered by then is in the spool. Once is enough."""
        if not self._unused.detach():
            return
        timeout = self._exit_timeout if timeout_millis is None else min(self._exit_timeout, timeout_millis / 1000)
        self._courier.notice_exit()
        self._courier.stop(timeout)
        self._store.sync()
        self._store.close()

    @property
    def counts(self) -> SpoolCounts:
        """What has become of the spans; a copy."""
        return self._store.counts

    @property
    def spooled(self) -> int:
        """Spans that wait on disk."""
        return self._store.waiting

    @property
    def bytes(self) -> int:
        """What they take on disk."""
        return self._store.size

    @property
    def well(self) -> bool:
        """Whether the endpoint took what it was last sent; True before it was sent anything."""
        return self._courier.pace.well

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._store.name}>"


def spooling_exporter(target: Target, settings: Settings) -> SpoolingSpanExporter:
    """The exporter to this target with the spool that the settings name; raises ConfigurationError."""
    return SpoolingSpanExporter.to(
        target,
        settings.spool,
        max_bytes=settings.spool_max_bytes,
        max_age=settings.spool_max_age,
        exit_timeout=settings.exit_timeout,
    )


def sender_to(target: Target) -> Sender:
    """A sender for this target; ConfigurationError where it cannot be made."""
    if target.protocol == "grpc":
        from ..senders.grpc import GrpcSender

        return GrpcSender(target)
    from ..senders.http import HttpSender

    return HttpSender(target)


def _lost(counts: SpoolCounts) -> int:
    return counts.rejected + counts.dead_lettered + counts.dropped.total()


def _journal(
    given: str | Path | Journal | None, directory: Path | None, place: Place, max_bytes: int, max_age: float | None
) -> tuple[Callable[[], Backing], Callable[[], None]]:
    """What opens the journal, and what is to be done before it is written to."""
    if given is not None and directory is not None:
        return (
            lambda: SegmentJournal(directory, max_bytes=max_bytes, max_age=max_age),
            lambda: describe(directory, place.about),
        )
    journal: Any = Off(max_bytes) if given is None else given

    def say() -> None:
        if directory is not None:
            _log.warning(_READ_ONLY, directory)

    return lambda: journal, say
