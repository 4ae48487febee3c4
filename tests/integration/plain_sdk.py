"""A program instrumented with the plain OpenTelemetry SDK: what the servers are tried with before our package is."""

from __future__ import annotations

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

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter
    from opentelemetry.util.types import AttributeValue

    from .backends import Collector, Jaeger

Protocol = Literal["grpc", "http"]
Instrument = Literal["counter", "updown", "histogram"]


@dataclass(frozen=True)
class Metric:
    """A metric of design §7 and what Prometheus calls it."""

    name: str
    instrument: Instrument
    unit: str
    prometheus: str  # of a histogram, without _bucket, _sum and _count


METRICS = (
    Metric("gen_ai.client.token.usage", "histogram", "{token}", "gen_ai_client_token_usage"),
    Metric("gen_ai.client.operation.duration", "histogram", "s", "gen_ai_client_operation_duration_seconds"),
    Metric(
        "gen_ai.client.operation.time_to_first_chunk",
        "histogram",
        "s",
        "gen_ai_client_operation_time_to_first_chunk_seconds",
    ),
    Metric("gen_ai.invoke_agent.duration", "histogram", "s", "gen_ai_invoke_agent_duration_seconds"),
    Metric("gen_ai.execute_tool.duration", "histogram", "s", "gen_ai_execute_tool_duration_seconds"),
    Metric("agentbus.tokens.used", "counter", "{token}", "agentbus_tokens_used_total"),
    Metric("agentbus.cost.spent", "counter", "{USD}", "agentbus_cost_spent_total"),
    Metric("agentbus.cost.saved", "counter", "{USD}", "agentbus_cost_saved_total"),
    Metric("agentbus.cost.unpriced_calls", "counter", "{call}", "agentbus_cost_unpriced_calls_total"),
    Metric("agentbus.llm.calls", "counter", "{call}", "agentbus_llm_calls_total"),
    Metric("agentbus.tool.calls", "counter", "{call}", "agentbus_tool_calls_total"),
    Metric("agentbus.agent.runs", "counter", "{run}", "agentbus_agent_runs_total"),
    Metric("agentbus.agent.active", "updown", "{run}", "agentbus_agent_active"),
    Metric("agentbus.cache.hits", "counter", "{hit}", "agentbus_cache_hits_total"),
    Metric("agentbus.cache.misses", "counter", "{miss}", "agentbus_cache_misses_total"),
    Metric("agentbus.cache.tokens_saved", "counter", "{token}", "agentbus_cache_tokens_saved_total"),
    Metric("agentbus.errors", "counter", "{error}", "agentbus_errors_total"),
    Metric("agentbus.channel.messages", "counter", "{message}", "agentbus_channel_messages_total"),
    Metric("agentbus.heartbeats", "counter", "{heartbeat}", "agentbus_heartbeats_total"),
    Metric("agentbus.deployments", "counter", "{deployment}", "agentbus_deployments_total"),
    Metric("agentbus.deployment.duration", "histogram", "s", "agentbus_deployment_duration_seconds"),
    Metric("agentbus.recovery.time", "histogram", "s", "agentbus_recovery_time_seconds"),
    Metric("agentbus.deployment.lead_time", "histogram", "s", "agentbus_deployment_lead_time_seconds"),
    Metric("agentbus.events.emitted", "counter", "{event}", "agentbus_events_emitted_total"),
    Metric("agentbus.events.dropped", "counter", "{event}", "agentbus_events_dropped_total"),
    Metric("agentbus.events.duplicate", "counter", "{event}", "agentbus_events_duplicate_total"),
    Metric("agentbus.events.skipped", "counter", "{event}", "agentbus_events_skipped_total"),
    Metric("agentbus.events.late", "counter", "{event}", "agentbus_events_late_total"),
    Metric("agentbus.events.unknown", "counter", "{event}", "agentbus_events_unknown_total"),
    Metric("agentbus.handler.failures", "counter", "{failure}", "agentbus_handler_failures_total"),
    Metric("agentbus.spans.open", "updown", "{span}", "agentbus_spans_open"),
    Metric("agentbus.spans.exported", "counter", "{span}", "agentbus_spans_exported_total"),
    Metric("agentbus.spans.spooled", "counter", "{span}", "agentbus_spans_spooled_total"),
    Metric("agentbus.spans.rejected", "counter", "{span}", "agentbus_spans_rejected_total"),
    Metric("agentbus.spans.dropped", "counter", "{span}", "agentbus_spans_dropped_total"),
    Metric("agentbus.spans.interrupted", "counter", "{span}", "agentbus_spans_interrupted_total"),
)

# What the dashboard's queries group by; here every metric carries all of them.
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
    provider = meter_provider(server, protocol, service)
    meter = provider.get_meter("plain_sdk")
    for metric in METRICS:
        _count(meter, metric, amount)
    provider.shutdown()


def _count(meter: Meter, metric: Metric, amount: float) -> None:
    match metric.instrument:
        case "counter":
            meter.create_counter(metric.name, metric.unit).add(amount, ATTRIBUTES)
        case "updown":
            meter.create_up_down_counter(metric.name, metric.unit).add(amount, ATTRIBUTES)
        case "histogram":
            meter.create_histogram(metric.name, metric.unit).record(amount, ATTRIBUTES)


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
