"""What the tests of the span bridge share: events with times, and the spans they become, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from otel_agentbus import Bus, Settings, SpanBridge, connect
from otel_agentbus.events import Event
from otel_agentbus.telemetry.tracer import SCOPE

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
            found.append((span.name, parent, (span.start_time - T0) / SECOND, (span.end_time - T0) / SECOND, outcome))
        return sorted(found, key=lambda row: (row[2], row[0], row[3]))


def bridged(sampler: Sampler | None = None, **options: Any) -> Bridged:
    """A new bridge with a provider of its own."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=sampler, resource=Resource({"service.name": "test"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Bridged(SpanBridge(provider, **options), exporter)


@dataclass
class Connected:
    """A bus over an application's own providers, with what arrives there in memory."""

    bus: Bus
    provider: TracerProvider
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        assert self.bus.flush()
        return self.exporter.get_finished_spans()

    @property
    def ours(self) -> dict[str, ReadableSpan]:
        """Our own spans by their names, which must differ."""
        found = [span for span in self.spans if span.instrumentation_scope and span.instrumentation_scope.name == SCOPE]
        assert len({span.name for span in found}) == len(found)
        return {span.name: span for span in found}

    def points(self) -> dict[str, dict[tuple[tuple[str, Any], ...], Any]]:
        """All metrics: for each the points by their attributes, a number or (count, sum)."""
        assert self.bus.flush()
        data = self.reader.get_metrics_data()
        found: dict[str, dict[tuple[tuple[str, Any], ...], Any]] = {}
        for of_resource in data.resource_metrics if data is not None else ():
            for of_scope in of_resource.scope_metrics:
                for metric in of_scope.metrics:
                    points = found.setdefault(metric.name, {})
                    for point in metric.data.data_points:
                        key = tuple(sorted((point.attributes or {}).items()))
                        value = getattr(point, "value", None)
                        points[key] = (getattr(point, "count", 0), getattr(point, "sum", 0)) if value is None else value
        return found


@contextmanager
def connected(
    sampler: Sampler | None = None, *processors: SpanProcessor, settings: Settings | None = None
) -> Iterator[Connected]:
    """Connect to providers that an application might have; `processors` come before the exporter's."""
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    provider = TracerProvider(sampler=sampler, resource=Resource({"service.name": "test"}), shutdown_on_exit=False)
    for processor in (*processors, SimpleSpanProcessor(exporter)):
        provider.add_span_processor(processor)
    meter_provider = MeterProvider([reader], resource=Resource({"service.name": "test"}), shutdown_on_exit=False)
    with connect(tracer_provider=provider, meter_provider=meter_provider, settings=settings or Settings()) as bus:
        yield Connected(bus, provider, exporter, reader)
    meter_provider.shutdown()
    provider.shutdown()
