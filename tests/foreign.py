"""An application with a tracer provider of its own, in which other instrumentations make spans that are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Sampler
from opentelemetry.trace import Span, Status, Tracer

from otel_agentbus.adapters.otel import SpanEvents
from otel_agentbus.events import Event
from otel_agentbus.testing import Captured, draw

#: When the first span of a test begins.
START_NS = 1_800_000_000_000_000_000
_ENVELOPE = {field.name for field in fields(Event)} - {"agent", "conversation_id"}


class Application:
    """A program whose spans somebody else exports."""

    def __init__(self, sampler: Sampler = DEFAULT_ON) -> None:
        self.exporter = InMemorySpanExporter()
        self.processor = SpanEvents()
        self.provider = TracerProvider(sampler=sampler, shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.provider.add_span_processor(self.processor)

    def tracer(self, scope: str = "somebody") -> Tracer:
        """The tracer of an instrumentation."""
        return self.provider.get_tracer(scope)

    def told(
        self,
        name: str,
        start: Mapping[str, Any] | None = None,
        end: Mapping[str, Any] | None = None,
        *,
        scope: str = "somebody",
        events: Sequence[tuple[str, Mapping[str, Any], float]] = (),
        status: Status | None = None,
        seconds: float = 2.0,
    ) -> None:
        """One span alone: with these attributes at its start, and these at its end."""
        span = self.tracer(scope).start_span(name, attributes=start, start_time=START_NS)
        span.set_attributes(dict(end or {}))
        for label, said, after in events:
            span.add_event(label, dict(said), START_NS + round(after * 1e9))
        if status is not None:
            span.set_status(status)
        span.end(START_NS + round(seconds * 1e9))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """What the application has exported."""
        return self.exporter.get_finished_spans()

    def tree(self, seen: Captured) -> str:
        """Its spans and ours, as one drawn tree."""
        return draw((*self.spans, *seen.spans))


def said(event: Event) -> dict[str, Any]:
    """What an event says, without its envelope and ids."""
    found = {field.name: getattr(event, field.name) for field in fields(event) if field.name not in _ENVELOPE}
    found = {key: value for key, value in found.items() if value is not None}
    for key in ("call_id", "tool_call_id"):
        found.pop(key, None)
    return found


def id_of(span: Span) -> str:
    """The span's own id, as it stands at the end of what is told of it."""
    return f"@span:{span.get_span_context().span_id:016x}"
