"""A program instrumented with the plain OpenTelemetry SDK: what the servers are tried with before our package is."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from otel_agentbus.telemetry import instruments, names
from tests.measured import TABLE, family

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from opentelemetry.metrics import Meter
    from opentelemetry.util.types import AttributeValue

    from .backends import Collector, Jaeger

Protocol = Literal["grpc", "http"]
Instrument = Literal["counter", "updown", "histogram"]


@dataclass(frozen=True)
class Metric:
    """A metric of the table of instruments and what Prometheus calls it."""

    name: str
    instrument: Instrument  # what it is to Prometheus, for which a gauge is nothing else than a level
    unit: str
    prometheus: str  # of a histogram, without _bucket, _sum and _count


_INSTRUMENTS: dict[instruments.Kind, Instrument] = {
    "counter": "counter",
    "level": "updown",
    "gauge": "updown",
    "histogram": "histogram",
}
METRICS = tuple(Metric(metric.name, _INSTRUMENTS[metric.kind], metric.unit, family(metric)) for metric in TABLE)

# Labels like those of all metrics; `count_everything` gives every metric all of them.
ATTRIBUTES: dict[str, AttributeValue] = {
    "gen_ai.provider.name": "openai",
    "gen_ai.request.model": "gpt-5-mini",
    "gen_ai.agent.name": "planner",
    "gen_ai.token.type": "input",
    "gen_ai.tool.name": "search",
    "agentbus.outcome": "error",
    "agentbus.component": "tool",
    "agentbus.reason": "unknown_model",
}

# What the attributes of the table may say; `every_measurement` says each of it once at least.
VALUES: dict[str, tuple[str, ...]] = {
    names.OPERATION: ("chat", "embeddings"),
    names.PROVIDER: ("openai", "anthropic"),
    names.REQUEST_MODEL: ("gpt-5-mini", "claude-haiku-4-5"),
    names.RESPONSE_MODEL: ("gpt-5-mini-2025-08-07", "claude-haiku-4-5-20251001"),
    names.AGENT_NAME: ("planner", "researcher"),
    names.TOOL_NAME: ("search", "read_page"),
    names.TOKEN_TYPE: ("input", "output", "cache_read", "cache_write", "reasoning"),
    names.TOKEN_MODALITY: ("text", "audio"),
    names.ERROR_TYPE: ("", "TimeoutError"),
    names.OUTCOME: ("ok", "error", "cancelled", "interrupted"),
    names.REASON: ("unknown_model", "no_usage"),
    names.COST_SOURCE: ("reported", "override", "priced"),
    names.COMPONENT: ("tool", "channel"),
    names.BUDGET: ("daily", "per-run"),
    names.THRESHOLD: ("0.8", "1"),
    names.CACHE_TYPE: ("semantic", "exact"),
    names.CHANNEL: ("telegram", "web"),
    names.DIRECTION: ("inbound", "outbound"),
    names.DEPLOYMENT_STATUS: ("succeeded", "failed"),
    names.RELAY_GROUP: ("relay",),
}


@dataclass(frozen=True)
class Measurement:
    """What an instrument is told."""

    metric: instruments.Metric
    amount: float
    attributes: Mapping[str, AttributeValue]


def every_measurement(amount: float, *flavours: str) -> Iterator[Measurement]:
    """Of each metric of these flavours, measurements of this amount that say all values of its attributes."""
    for metric in TABLE:
        if not set(flavours) & set(metric.flavours):
            continue
        values = {attribute: VALUES[attribute] for attribute in metric.attributes}
        for turn in range(max(map(len, values.values()), default=1)):
            said = {attribute: which[turn % len(which)] for attribute, which in values.items()}
            yield Measurement(metric, amount, {attribute: value for attribute, value in said.items() if value})


def tracer_provider(server: Collector | Jaeger, protocol: Protocol) -> TracerProvider:
    """A provider that exports in batches, the last one when it is shut down."""
    provider = TracerProvider(resource=Resource.create({"service.name": "plain_sdk"}), shutdown_on_exit=False)
    exporter = (
        GrpcSpanExporter(endpoint=server.otlp_grpc_endpoint, insecure=True)
        if protocol == "grpc"
        else HttpSpanExporter(endpoint=f"{server.otlp_http_endpoint}/v1/traces")
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def meter_provider(server: Collector, protocol: Protocol, service: str, **resource: str) -> MeterProvider:
    """A provider that exports when it is shut down, as one of a short program does."""
    exporter = (
        GrpcMetricExporter(endpoint=server.otlp_grpc_endpoint, insecure=True)
        if protocol == "grpc"
        else HttpMetricExporter(endpoint=f"{server.otlp_http_endpoint}/v1/metrics")
    )
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=60_000)
    return MeterProvider([reader], Resource.create({"service.name": service, **resource}), shutdown_on_exit=False)


def count_everything(server: Collector, protocol: Protocol, service: str, amount: float) -> None:
    """Runs a program that adds or records this amount once on every metric, and ends."""
    measure(server, service, [Measurement(metric, amount, ATTRIBUTES) for metric in TABLE], protocol)


def measure(
    server: Collector,
    service: str,
    measurements: Iterable[Measurement],
    protocol: Protocol = "http",
    instance: str | None = None,
) -> int:
    """Runs a program that measures this in one sampled span, and ends; returns the id of the span's trace.

    Unless it says otherwise, each program is an instance of its own.
    """
    provider = meter_provider(server, protocol, service, **{"service.instance.id": instance or str(uuid.uuid4())})
    meter = provider.get_meter("plain_sdk")
    with TracerProvider(shutdown_on_exit=False).get_tracer("plain_sdk").start_as_current_span("measure") as span:
        for measurement in measurements:
            _measure(meter, measurement)
    provider.shutdown()
    return span.get_span_context().trace_id


def _measure(meter: Meter, measurement: Measurement) -> None:
    name, unit = measurement.metric.name, measurement.metric.unit
    match measurement.metric.kind:
        case "counter":
            meter.create_counter(name, unit).add(measurement.amount, measurement.attributes)
        case "level":
            meter.create_up_down_counter(name, unit).add(measurement.amount, measurement.attributes)
        case "gauge":
            meter.create_gauge(name, unit).set(measurement.amount, measurement.attributes)
        case "histogram":
            buckets = measurement.metric.buckets
            histogram = meter.create_histogram(name, unit, explicit_bucket_boundaries_advisory=buckets)
            histogram.record(measurement.amount, measurement.attributes)


@dataclass(frozen=True)
class SentTrace:
    """What `send_trace` sent."""

    trace_id: int
    root: int
    llm: int
    tool: int
    start_ns: int


def send_trace(server: Collector | Jaeger, protocol: Protocol) -> SentTrace:
    """Sends an agent's span with a model call and a failed tool call in it, at chosen times."""
    provider = tracer_provider(server, protocol)
    tracer = provider.get_tracer("plain_sdk", "1.0")
    start = 1_790_000_000_123_456_789
    root = tracer.start_span(
        "invoke_agent planner",
        start_time=start,
        attributes={"text": "tëxt", "whole": 2**53 + 1, "real": 0.5, "yes": True, "list": ["a", "b"]},
    )
    inside = trace.set_span_in_context(root)
    llm = tracer.start_span("chat gpt-5-mini", inside, trace.SpanKind.CLIENT, start_time=start + 1_000)
    llm.end(start + 2_500_001_000)
    link = trace.Link(llm.get_span_context(), {"why": "asked for it"})
    tool = tracer.start_span("execute_tool search", inside, links=[link], start_time=start + 2_500_002_000)
    tool.add_event("exception", {"exception.type": "TimeoutError"}, start + 2_500_003_000)
    tool.set_status(trace.StatusCode.ERROR, "timed out")
    tool.end(start + 2_600_002_000)
    root.end(start + 3_000_000_000)
    provider.shutdown()
    root_id, llm_id, tool_id = (span.get_span_context().span_id for span in (root, llm, tool))
    return SentTrace(root.get_span_context().trace_id, root_id, llm_id, tool_id, start)


def send_messages(server: Collector | Jaeger, protocol: Protocol, spans: int, size: int) -> int:
    """Sends a trace of so many spans with so long a message each, in one request; returns its id."""
    provider = tracer_provider(server, protocol)
    tracer = provider.get_tracer("plain_sdk")
    with tracer.start_as_current_span("invoke_agent planner") as root:
        for _call in range(spans - 1):
            tracer.start_span("chat gpt-5-mini", attributes={"gen_ai.input.messages": "x" * size}).end()
    provider.shutdown()
    return root.get_span_context().trace_id
