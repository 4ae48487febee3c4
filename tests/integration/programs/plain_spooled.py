"""A program that knows OpenTelemetry's SDK and nothing of agents: a tree of spans, and its trace id on standard output.

    python -m tests.integration.programs.plain_spooled (wrapped | configured) NAME SPOOL [LINGER]

`wrapped` puts the spool around the official exporter by hand; `configured` leaves all to the SDK's own configurator,
which finds the exporter by the name that OTEL_TRACES_EXPORTER has. At its end it lingers while anything is spooled.
"""

from __future__ import annotations

import hashlib
import os
import sys

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from tests.integration.programs.troupe import linger

CHILDREN = 20


def wrapped(spool: str) -> None:
    """By hand."""
    import otel_agentbus as agentbus

    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(agentbus.SpoolingSpanExporter(_official(), spool, timeout=5.0)))
    trace.set_tracer_provider(provider)


def _official() -> SpanExporter:
    if os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"] == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter(timeout=5)
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

    return HttpExporter(timeout=5)


def configured(spool: str) -> None:
    """As auto-instrumentation does it: AGENTBUS_SPOOL_DIR names the directory."""
    assert os.environ["AGENTBUS_SPOOL_DIR"] == spool
    from opentelemetry.sdk._configuration import _OTelSDKConfigurator

    configurator = _OTelSDKConfigurator()  # type: ignore[no-untyped-call]
    configurator.configure()  # type: ignore[no-untyped-call]


def main() -> None:
    """Two levels of spans, in a trace whose id is the name's."""
    how, name, spool, *seconds = sys.argv[1:]
    {"wrapped": wrapped, "configured": configured}[how](spool)
    tracer = trace.get_tracer("plain")
    trace_id = int(hashlib.md5(name.encode(), usedforsecurity=False).hexdigest(), 16)
    caller = trace.SpanContext(trace_id, 1, is_remote=True, trace_flags=trace.TraceFlags(1))
    with tracer.start_as_current_span("root", trace.set_span_in_context(trace.NonRecordingSpan(caller))):
        for number in range(CHILDREN):
            with tracer.start_as_current_span(f"child {number}", attributes={"number": number}):
                pass
    trace.get_tracer_provider().force_flush()  # type: ignore[attr-defined]  # the SDK's
    for left in seconds:
        linger(float(left))


if __name__ == "__main__":
    main()
