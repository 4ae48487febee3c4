"""`SpanEvents`: a span processor that hands the spans of other instrumentations to the bus as events."""

from __future__ import annotations

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor

from ..losses import losses
from .reading import reading


class SpanEvents(SpanProcessor):
    """Reads spans of agents, model calls and tool calls as events of the bus; exports nothing and changes nothing.

    For any provider of the SDK: `provider.add_span_processor(SpanEvents())`. Where several of them see a span, it is
    read once. A span that is not recorded is not seen.
    """

    def __init__(self) -> None:
        #: Whether spans are read that belong to nothing that is being read already.
        self.on = True

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Read a span that begins; runs on the agent's own path, and never raises."""
        try:
            reading.begin(span, parent_context, new=self.on)
        except Exception as error:  # noqa: BLE001 - our failures must not reach the program
            losses.count("a span of another instrumentation could not be read", error)

    def on_end(self, span: ReadableSpan) -> None:
        """Read a span that ends; runs on the agent's own path, and never raises."""
        try:
            reading.end(span, new=self.on)
        except Exception as error:  # noqa: BLE001 - as above
            losses.count("a span of another instrumentation could not be read", error)

    def shutdown(self) -> None:
        """Read nothing new any more."""
        self.on = False

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Tell of the spans that will never end; nothing else waits here."""
        try:
            reading.settle_lost()
        except Exception as error:  # noqa: BLE001 - as above
            losses.count("a span of another instrumentation could not be read", error)
        return True
