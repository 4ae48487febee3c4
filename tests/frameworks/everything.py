"""A program with every framework at once, and with foreign instrumentations beside us; run as a process of its own.

A LangChain agent has one tool, which runs the planner of each other framework. OpenInference instruments LangChain and
the OpenAI Agents SDK, Logfire pydantic-ai, Strands and the agent-framework speak OpenTelemetry themselves: all to the
same global provider as we. That is the SDK's, or Logfire's, as the argument says; with the SDK's, a request is open.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections import Counter
from contextlib import nullcontext
from typing import Any

import logfire
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from openinference.instrumentation.langchain import LangChainInstrumentor
from openinference.instrumentation.openai_agents import OpenAIAgentsInstrumentor
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import otel_agentbus as agentbus
from otel_agentbus import adapters
from tests.frameworks.shape import outline, program

#: Each of them runs a planner; MCP has none.
PLANNERS = ("openai-agents", "pydantic-ai", "llama-index", "strands", "agent-framework")

langchain = program("langchain")


@tool
async def everybody() -> str:
    """Ask the planners of all other frameworks, one after the other."""
    answers = []
    for framework in PLANNERS:
        run = program(framework).run
        answers.append(await run() if inspect.iscoroutinefunction(run) else await asyncio.to_thread(run))
    return " ".join(map(str, answers))


def chief() -> Any:
    """A LangChain agent that asks everybody."""
    usage = langchain.used(1000, 100)
    asks = [{"name": "everybody", "args": {}, "id": "call-all"}]
    script = iter([AIMessage("", tool_calls=asks, usage_metadata=usage), AIMessage("Good.", usage_metadata=usage)])
    return create_agent(langchain.ScriptedModel(model="fake-chief", messages=script), [everybody], name="chief")


def instrument(kind: str, exporter: InMemorySpanExporter) -> Any:
    """Set up the app's own OpenTelemetry, and all that observes it beside us."""
    if kind == "logfire":
        processors = [SimpleSpanProcessor(exporter)]
        logfire.configure(send_to_logfire=False, console=False, additional_span_processors=processors)
        logfire.instrument_pydantic_ai()
    else:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
        LangChainInstrumentor().instrument(tracer_provider=provider)
    OpenAIAgentsInstrumentor().instrument(tracer_provider=trace.get_tracer_provider())
    if kind == "logfire":
        return nullcontext()
    return trace.get_tracer("app").start_as_current_span("POST /ask", kind=trace.SpanKind.SERVER)


def scope_of(span: ReadableSpan) -> str:
    """Whose span it is."""
    return span.instrumentation_scope.name if span.instrumentation_scope else ""


def summed(reader: InMemoryMetricReader, name: str, attribute: str) -> dict[str, int]:
    """The points of a sum by one attribute."""
    sums: Counter[str] = Counter()
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data is not None else ():
        for scope in resource.scope_metrics:
            for point in (
                point for metric in scope.metrics if metric.name == name for point in metric.data.data_points
            ):
                sums[str((point.attributes or {}).get(attribute))] += int(getattr(point, "value", 0))
    return dict(sums)


def main() -> None:
    """Run it, and print what was seen as JSON."""
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    request = instrument(sys.argv[1], exporter)
    with agentbus.connect(instrument="auto", meter_provider=MeterProvider([reader])) as bus:
        with request:
            asyncio.run(chief().ainvoke({"messages": [{"role": "user", "content": "Go."}]}))
        bus.flush()
        active = sorted(adapters.active())
    spans = exporter.get_finished_spans()
    told = {
        "ours": outline([span for span in spans if scope_of(span) == "otel_agentbus"]),
        "traces": len({span.context.trace_id for span in spans if span.context}),
        "roots": [span.name for span in spans if span.parent is None],
        "scopes": sorted({scope_of(span) for span in spans}),
        "tokens": summed(reader, "agentbus.tokens.used", "gen_ai.token.type"),
        "calls": sum(summed(reader, "agentbus.llm.calls", "agentbus.outcome").values()),
        "runs": summed(reader, "agentbus.agent.runs", "gen_ai.agent.name"),
        "active": active,
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
