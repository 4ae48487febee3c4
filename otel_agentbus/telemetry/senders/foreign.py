"""Any other span exporter as a sender: it says success, failure or nothing in time, and no more."""

from __future__ import annotations

import logging

from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_agentbus.telemetry.otlp import Batch

from .attempts import Attempts, Overdue
from .quiet import suppressed
from .verdict import Verdict

_log = logging.getLogger("otel_agentbus")


class ForeignSender:
    """Sends batches through an exporter that somebody else has made, waiting `timeout` seconds for each.

    Its failures say nothing of their reason. One is the batch's own where another batch was taken since the last one.
    """

    #: Whether only other batches tell if the endpoint or the batch is at fault.
    vague = True

    def __init__(self, exporter: SpanExporter, timeout: float) -> None:
        self.name = type(exporter).__name__
        self._exporter, self._timeout = exporter, timeout
        self._failed: Batch | None = None  # the last one that did
        self._works = False  # whether another was taken since
        self._attempts = Attempts(f"agentbus-{self.name}")

    def send(self, batch: Batch) -> Verdict:
        """One attempt, over by the timeout; never raises. An exporter that does not return is waited for next time."""
        try:
            result = self._attempts.run(lambda: self._export(batch), self._timeout)
        except Overdue as overdue:
            return Verdict("unavailable", message=str(overdue))
        except OSError as error:
            return Verdict("unavailable", message=f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - whatever a foreign exporter raises may be the batch's fault
            return Verdict("failed", message=f"{type(error).__name__}: {error}")
        if result is SpanExportResult.SUCCESS:
            self._works = True
            return Verdict("delivered")
        own_fault = self._works and batch is self._failed
        self._failed, self._works = batch, False
        if own_fault:
            return Verdict("failed", message=f"{self.name} reports a failure, and takes other batches")
        return Verdict("unavailable", message=f"{self.name} reports a failure")

    def shutdown(self) -> None:
        """Send nothing any more, and shut the exporter down."""
        self._attempts.close()
        try:
            self._exporter.shutdown()
        except Exception:  # noqa: BLE001 - somebody else's, and whoever leaves is not to be held up
            _log.warning("%s could not be shut down", self.name, exc_info=True)

    def renew(self) -> None:
        """Use a new thread, as the child of a fork must; the exporter is its owner's."""
        self._attempts = Attempts(f"agentbus-{self.name}")

    def _export(self, batch: Batch) -> SpanExportResult:
        with suppressed():
            return self._exporter.export(batch.spans)
