"""What the tests of the span bridge share: events with times, and the spans they become, as plain data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from otel_agentbus.events import Event
from otel_agentbus.telemetry.spans import SpanBridge

SECOND = 1_000_000_000
T0 = 1_700_000_000 * SECOND


def at(seconds: float) -> int:
    """A moment, in nanoseconds, this many seconds after the beginning of the test's time."""
    return T0 + round(seconds * SECOND)


@dataclass
class Emitter:
    """One source: numbers its events and gives them their times."""

    name: str = "s"
    events: list[Event] = field(default_factory=list)

    def __call__(self, cls: type[Event], seconds: float, **fields: Any) -> Event:
        event = cls(time_ns=at(seconds), source=self.name, seq=len(self.events), **fields)
        self.events.append(event)
        return event


@dataclass
class Bridged:
    """A bridge over the SDK with an exporter in memory."""

    bridge: SpanBridge
    exporter: InMemorySpanExporter

    def feed(self, events: Iterable[Event]) -> Bridged:
        for event in events:
            self.bridge(event)
        return self

    def closed(self) -> tuple[ReadableSpan, ...]:
        self.bridge.close()
        return self.exporter.get_finished_spans()

    def rows(self) -> list[tuple[str, str | None, float, float, str]]:
        """Closed, as (name, parent's name, start, end, outcome), sorted by start."""
        spans = self.closed()
        names = {span.context.span_id: span.name for span in spans}
        found = []
        for span in spans:
            assert span.start_time is not None
            assert span.end_time is not None
            parent = None if span.parent is None else names.get(span.parent.span_id, "?")
            outcome = str((span.attributes or {}).get("agentbus.outcome"))
            found.append(
                (span.name, parent, (span.start_time - T0) / SECOND, (span.end_time - T0) / SECOND, outcome)
            )
        return sorted(found, key=lambda row: (row[2], row[0], row[3]))


def bridged(sampler: Sampler | None = None, **options: Any) -> Bridged:
    """A new bridge with a provider of its own."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=sampler, resource=Resource({"service.name": "test"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Bridged(SpanBridge(provider, **options), exporter)
