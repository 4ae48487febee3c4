"""recover(): send the runs that no process finished, each once, however many recover at the same time."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter

from ..errors import ConfigurationError
from ..recording import Recorded, Told, sources
from ..settings import Settings
from ..telemetry import names
from ..telemetry.pricing import PriceBook
from .retelling import Retelling
from .sending import STEP, Progress, Sending, exporters_for

if TYPE_CHECKING:
    from ..journal import Claim

_log = logging.getLogger("otel_agentbus.recovery")


@dataclass(slots=True)
class Recovered:
    """What a recovery found and sent.

    `delivered` says that nothing was lost: every span went to the endpoint or waits in the spool for it. Where not, the
    journal stays as it is, and the next recovery tries again.
    """

    #: The trees of which spans were sent, and these spans; how many of them were interrupted.
    runs: int = 0
    spans: int = 0
    interrupted: int = 0
    #: How many processes were recovered, and how many events they had left.
    sources: int = 0
    events: int = 0
    #: How many events are of kinds not known here, and how many records are no events.
    unknown: int = 0
    unreadable: int = 0
    #: How many of the spans wait in the spool, and how many are there as dead letters: the endpoint has refused them.
    spooled: int = 0
    refused: int = 0
    delivered: bool = True

    def add(self, other: Recovered) -> None:
        """Add what was recovered of one more source."""
        for name in ("runs", "spans", "interrupted", "sources", "events", "unknown", "unreadable"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.delivered = self.delivered and other.delivered


def recover(
    directory: str | Path | None = None,
    *,
    settings: Settings | None = None,
    progress: Progress | None = None,
    exporters: Iterable[SpanExporter] | None = None,
) -> Recovered:
    """Send the runs of processes that are gone and did not finish them; what was open in them ends as interrupted.

    Each run is recovered once: a journal that somebody else recovers at this time is left to them. Spans that their
    process had delivered, or left in its spool, are not sent again.

    Args:
        directory: the journal; else that of AGENTBUS_JOURNAL.
        settings: made by hand instead of read from the environment.
        progress: told from time to time how many events are done, and how many there are.
        exporters: where to send, instead of where the settings say; they are not shut down.

    Raises:
        ConfigurationError: there is no journal or no endpoint, or the price file is wrong.

    """
    settings = settings or Settings()
    directory = settings.journal if directory is None else directory
    if directory is None:
        raise ConfigurationError("There is no journal to recover: set AGENTBUS_JOURNAL to its directory, or name one.")
    prices = PriceBook(settings.prices)
    sending = Sending(exporters_for(settings) if exporters is None else exporters)
    recovery, found = _Recovery(settings, prices, sending), Recovered()
    left = [source for source in all_sources(directory) if not (source.alive or source.finished)]
    if progress is not None:
        recovery.report(progress, sum(source.number() for source in left))
    try:
        for source in left:
            found.add(recovery.recover(source))
        sending.settle(settings.exit_timeout)
        found.spooled, found.refused = sending.spooled, sending.refused
    finally:
        if exporters is None:
            sending.close()
    return found


def all_sources(directory: str | Path) -> list[Recorded]:
    """The writers of a journal that somebody wants to be sent; ConfigurationError: it cannot be read."""
    try:
        return sources(directory)
    except OSError as error:
        raise ConfigurationError(f"The journal {directory} cannot be read: {error}.") from None


class _Recovery:
    """Recovers one source after the other."""

    def __init__(self, settings: Settings, prices: PriceBook, sending: Sending) -> None:
        self._settings = settings
        self._prices = prices
        self._sending = sending
        self._progress: Progress | None = None
        self._done = self._total = 0

    def report(self, progress: Progress, total: int) -> None:
        """Tell of the progress from now on."""
        self._progress, self._total = progress, total
        progress(0, total)

    def recover(self, source: Recorded) -> Recovered:
        """Send what this source's process left; nothing where somebody else does, or has done it meanwhile."""
        try:
            claim = source.claim()
        except OSError as error:
            _log.warning("The journal of %s cannot be taken over: %s", source.source, error)
            return Recovered(delivered=False)
        if claim is None:
            return Recovered()
        with claim:
            if source.finished:
                return Recovered()
            try:
                found = self._send(source)
            except Exception:  # noqa: BLE001 - what one process wrote, whatever it is, must not keep the others from it
                _log.exception("The journal of %s cannot be recovered", source.source)
                return Recovered(delivered=False)
            if found.delivered:
                self._finish(claim, source)
        return found

    def _finish(self, claim: Claim, source: Recorded) -> None:
        try:
            claim.finish()
        except OSError as error:
            _log.warning("That %s is recovered cannot be noted, so it will be again: %s", source.source, error)

    def _send(self, source: Recorded) -> Recovered:
        """Tell everything again, for a span is made of all of it, and send the spans that end after the mark."""
        found, lost, unreadable = Recovered(sources=1), self._sending.lost, source.unreadable
        marked = source.marked
        is_after = marked is None
        traces: set[int] = set()

        def take(span: ReadableSpan) -> None:
            if not is_after or span.context is None:
                return
            traces.add(span.context.trace_id)
            found.spans += 1
            found.interrupted += (span.attributes or {}).get(names.OUTCOME) == "interrupted"
            self._sending(span)

        retelling = Retelling(source, self._settings, self._prices, take)
        for told in self._watched(source):
            is_after = is_after or marked is None or told.position > marked
            retelling(told)
            self._sending.step()
        is_after = True  # what is open now was never sent
        retelling.close()
        retelling.release()
        self._sending.flush()
        found.runs, found.events = len(traces), retelling.events
        found.unknown, found.unreadable = retelling.counts()["unknown"], source.unreadable - unreadable
        found.delivered = self._sending.lost == lost
        return found

    def _watched(self, source: Recorded) -> Iterator[Told]:
        for told in source.records():
            yield told
            self._done += 1
            if self._progress is not None and self._done % STEP == 0:
                self._progress(min(self._done, self._total), self._total)
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)
