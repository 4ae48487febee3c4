"""Spans on their way to the endpoints, without a spool: tried again until they are taken, or refused for good."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter

from ..recovery.sending import require_endpoint
from ..settings import Settings
from ..telemetry.export import built, otlp_target
from ..telemetry.otlp import Batch
from ..telemetry.senders.foreign import ForeignSender
from ..telemetry.senders.verdict import Sender, Verdict
from ..telemetry.spool.exporter import sender_to
from ..telemetry.spool.parcel import Parcel

_log = logging.getLogger("otel_agentbus.relay")

#: Spans in one export.
BATCH = 512
#: Seconds between two attempts: at first, and at most; what an endpoint asks for is obeyed up to its own bound.
FIRST_S, LONGEST_S, LONGEST_ASKED_S = 0.1, 5.0, 30.0
#: Of a batch that is refused for good, its bytes are kept up to this size.
LETTER_BYTES = 65_536
#: How often it is looked whether there is still a reason to try.
_LOOK_S = 0.1


class Undelivered(Exception):
    """There was no reason any more to go on: these spans are not delivered."""


class Outlet:
    """Delivers spans to every endpoint, whatever time that takes."""

    def __init__(self, senders: Sequence[Sender]) -> None:
        self._senders = senders
        self._troubled: set[str] = set()
        #: How many spans were delivered, and how many the endpoints have refused for good.
        self.delivered = self.refused = 0

    def deliver(self, spans: Sequence[ReadableSpan], go_on: Callable[[], bool]) -> list[bytes]:
        """Deliver these spans; gives what tells of those that were refused for good.

        Raises:
            Undelivered: they were not taken, and `go_on` said no.

        """
        letters: list[bytes] = []
        for start in range(0, len(spans), BATCH):
            part = tuple(spans[start : start + BATCH])
            refused = 0
            for sender in self._senders:
                refused = max(refused, self._deliver(sender, part, letters, go_on))
            self.refused += refused
            self.delivered += len(part) - refused
        return letters

    def close(self) -> None:
        """End the senders."""
        for sender in self._senders:
            try:
                sender.shutdown()
            except Exception:  # noqa: BLE001 - somebody else's exporter, and whoever leaves is not to be held up
                _log.warning("%s could not be ended", sender.name, exc_info=True)

    def _deliver(
        self, sender: Sender, spans: tuple[ReadableSpan, ...], letters: list[bytes], go_on: Callable[[], bool]
    ) -> int:
        """How many of them this sender's endpoint has refused for good."""
        batch, refused = Batch(spans=spans), 0
        if not isinstance(sender, ForeignSender):
            refused = batch.left_out

        def bury(reason: str, part: Batch, items: int) -> bool:
            letters.append(letter(sender.name, reason, part, items))
            _log.warning("%s refuses %d spans for good: %s", sender.name, items, reason)
            return True

        parcel = Parcel(batch, len(spans) - refused) if len(spans) > refused else None
        delay = FIRST_S
        while parcel is not None and (verdict := parcel.send(sender, bury, lambda: not go_on())) is not None:
            self._complain(sender, verdict)
            delay = self._wait(delay, verdict, go_on)
        if parcel is None:
            return refused
        self._content(sender)
        return refused + parcel.tally.rejected + parcel.tally.dead_lettered

    def _wait(self, delay: float, verdict: Verdict, go_on: Callable[[], bool]) -> float:
        """Wait for the next attempt; gives how long to wait for the one after it."""
        wait = max(delay, min(verdict.retry_after or 0.0, LONGEST_ASKED_S))
        until = time.monotonic() + wait
        while (left := until - time.monotonic()) > 0:
            if not go_on():
                break
            time.sleep(min(left, _LOOK_S))
        if not go_on():
            raise Undelivered
        return min(delay * 2, LONGEST_S)

    def _complain(self, sender: Sender, verdict: Verdict) -> None:
        if sender.name not in self._troubled:
            self._troubled.add(sender.name)
            _log.warning(
                "%s does not take spans now; they stay in the broker until it does: %s", sender.name, verdict.message
            )

    def _content(self, sender: Sender) -> None:
        if sender.name in self._troubled:
            self._troubled.discard(sender.name)
            _log.warning("%s takes spans again", sender.name)


def letter(name: str, reason: str, batch: Batch, items: int) -> bytes:
    """What is kept of a batch that was refused: a line of JSON that says why, and the bytes of the OTLP request."""
    data = batch.data
    said = {"endpoint": name, "reason": reason, "spans": items, "bytes": len(data), "time": round(time.time())}
    return json.dumps(said).encode() + b"\n" + (data if len(data) <= LETTER_BYTES else b"")


def outlet_for(settings: Settings, exporters: Iterable[SpanExporter] | None) -> Outlet:
    """The way to these exporters, or to the endpoints of the settings.

    Raises:
        ConfigurationError: the settings name none.

    """
    if exporters is not None:
        return Outlet([ForeignSender(exporter, settings.timeout) for exporter in exporters])
    require_endpoint(settings)
    return Outlet([_sender(settings, name) for name in settings.exporters("traces")])


def _sender(settings: Settings, name: str) -> Sender:
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ForeignSender(ConsoleSpanExporter(out=sys.stdout), settings.timeout)
    target = otlp_target(settings, "traces", "otlp" if name == "agentbus_spool" else name)
    return built(target, lambda: sender_to(target))
