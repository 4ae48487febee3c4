"""Runs of every sort in a process with a broker: python -m tests.integration.programs.brokered [HOW]

With models that have prices, what user code says of the span that is current, links, remote parents that are sampled
and not, a tracestate, contents, errors, a stream, and a fork where HOW is "fork". It prints its receipt as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

import otel_agentbus as agentbus
from otel_agentbus.events import DeploymentFailed, DeploymentStarted, RecoveryCompleted

RUNS = 12
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def say(number: int) -> None:
    """What user code says of the current span."""
    span = trace.get_current_span()
    span.set_attributes({"own": number, "own.list": [1, 2, 3], "own.text": "ü\x00"})
    span.add_event("noted", {"at": 1.5}, timestamp=1_700_000_000_000_000_000)
    span.add_link(SpanContext(7, 8, is_remote=True, trace_flags=TraceFlags(1)), {"why": "because"})
    if number % 3 == 0:
        span.set_status(Status(StatusCode.ERROR, "said so"))
        span.update_name(f"renamed {number}")


def run(number: int) -> None:
    """One agent with a call, a stream, a tool that fails, and an agent below it."""
    name = f"brokered-{os.environ.get('RUN', '0')}-{number}"
    with agentbus.agent("planner", provider="openai", model="gpt-4o", invocation_id=name) as planner:
        say(number)
        messages = [{"role": "user", "content": "hello " * 5}]
        with planner.llm(call_id=f"{name}/c", model="gpt-4o", messages=messages) as call:
            say(number)
            call.record(input_tokens=1200, output_tokens=345 + number, cache_read_tokens=7, output="well")
        try:
            with planner.tool("search", tool_call_id=f"{name}/t", arguments={"q": number}) as tool:
                with agentbus.agent("expert", invocation_id=f"{name}/expert"):
                    pass
                tool.record(result={"found": [1, 2]})
                if number % 4 == 0:
                    raise TimeoutError("the archive does not answer")
        except TimeoutError:
            pass


def deploy(bus: agentbus.Bus) -> None:
    """A deployment that fails and is repaired."""
    bus.emit(DeploymentStarted(deploy_id="d1"))
    bus.emit(DeploymentFailed(deploy_id="d1", reason="broken"))
    bus.emit(RecoveryCompleted(deploy_id="d1"))


def provider() -> Any:
    """The application's own, where it is to have one."""
    how = os.environ.get("PROVIDER")
    if how is None:
        return None
    if how == "foreign":
        from tests.test_live import ForeignProvider

        return ForeignProvider()
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    made = TracerProvider(resource=Resource({"service.name": "own"}))
    made.add_span_processor(SimpleSpanProcessor(exporter := InMemorySpanExporter()))
    made.exporter = exporter  # type: ignore[attr-defined]
    return made


def main() -> None:
    """Work, and say how it went."""
    how = sys.argv[1] if len(sys.argv) > 1 else ""
    own = provider()
    bus = agentbus.connect(tracer_provider=own)
    for number in range(RUNS):
        run(number)
    for flags, state in (("01", "vendor=1"), ("00", "vendor=2")):
        carrier = {"traceparent": f"00-{TRACE}-00f067aa0ba902{flags}-{flags}", "tracestate": state}
        with agentbus.resume(carrier), agentbus.agent("joined", invocation_id=f"joined-{flags}"):
            say(1)
    linked = agentbus.resume({"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}, policy="link")
    with linked, agentbus.agent("linked", invocation_id="linked"):
        pass
    deploy(bus)
    if how == "fork":
        child = os.fork()
        if child == 0:
            with agentbus.agent("child", invocation_id="child"):
                pass
            sys.exit(0)
        os.waitpid(child, 0)
    done = bus.close()
    made = own.exporter.get_finished_spans() if hasattr(own, "exporter") else getattr(own, "spans", ())
    print(json.dumps({"done": done, "made here": len(made), **bus.health()}), flush=True)


if __name__ == "__main__":
    main()
