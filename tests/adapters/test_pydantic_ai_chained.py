"""An application that had set up pydantic-ai's instrumentation before keeps all that it had, span by span."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ModelMessage, ModelResponse, ToolCallPart
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.instrumented import InstrumentationSettings
from pydantic_ai.models.test import TestModel

from otel_agentbus import adapters
from otel_agentbus.testing import Captured

from .recorded import told


class Score(BaseModel):
    value: int


class Application:
    """Its own provider, meter and exporter, as Logfire sets them up for pydantic-ai."""

    def __init__(self, **settings: Any) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        meters = MeterProvider([self.reader])
        self.settings = InstrumentationSettings(tracer_provider=self.provider, meter_provider=meters, **settings)

    async def run(self) -> None:
        tracer = self.provider.get_tracer("app")

        def plan(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            if len(messages) == 1:
                return ModelResponse(parts=[ToolCallPart("ask", {"topic": "tides"}, tool_call_id="c1")])
            if len(messages) == 3:
                return ModelResponse(parts=[ToolCallPart("ask", {"topic": "again"}, tool_call_id="c2")])
            return ModelResponse(parts=[ToolCallPart("final_result", {"value": 7}, tool_call_id="c3")])

        def fails(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
            raise ModelHTTPError(503, "m", "overloaded: secret prompt")

        planner = Agent(
            FunctionModel(plan, model_name="large"), name="planner", output_type=Score, instructions="Plan."
        )

        @planner.tool_plain
        async def ask(topic: str) -> str:
            with tracer.start_as_current_span("the application's own"):
                if topic == "again":
                    raise ModelRetry("enough")
                small = FallbackModel(
                    FunctionModel(fails, model_name="bad"), TestModel(custom_output_text="high and low")
                )
                return (await Agent(small, name="researcher").run(topic)).output

        await planner.run("Plan it")
        async with Agent(TestModel(custom_output_text="one two three"), name="writer").run_stream("Write") as stream:
            async for _ in stream.stream_text(delta=True, debounce_by=None):
                break
        with pytest.raises(ModelHTTPError):
            await Agent(FunctionModel(fails, model_name="bad"), name="failing").run("Fail")

    def told(self) -> Any:
        spans = self.exporter.get_finished_spans()
        named = {span.context.span_id: span for span in spans if span.context}
        return sorted((_span(span, named) for span in spans), key=str), self._metrics()

    def _metrics(self) -> list[Any]:
        data = self.reader.get_metrics_data()
        if data is None:
            return []
        found = json.loads(data.to_json())["resource_metrics"]
        points = [
            [metric["name"], point["attributes"], point["count"]]
            for resource in found
            for scope in resource["scope_metrics"]
            for metric in scope["metrics"]
            for point in metric["data"]["data_points"]
        ]
        return sorted(points, key=str)


def _span(span: ReadableSpan, named: dict[int, ReadableSpan]) -> Any:
    above, parent = [], span.parent
    while parent is not None:
        above.append(named[parent.span_id].name)
        parent = named[parent.span_id].parent
    attributes = {key: value for key, value in (span.attributes or {}).items() if "time_to_first" not in key}
    events = [
        (event.name, {k: v for k, v in (event.attributes or {}).items() if "stack" not in k}) for event in span.events
    ]
    status = (span.status.status_code.name, span.status.description)
    return json.loads(_stable(json.dumps([span.name, above, str(span.kind), attributes, events, status], default=list)))


def _stable(text: str) -> str:
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "id", text)
    return re.sub(r"0x[0-9a-f]+", "at", text)


@pytest.mark.parametrize(
    "settings",
    [{}, {"include_content": False}, {"version": 6}, {"include_model_request_parameters": False}],
    ids=["default", "no content", "format 6", "no parameters"],
)
async def test_the_application_gets_its_spans_and_metrics_as_ever(
    seen: Captured, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    alone, chained = Application(**settings), Application(**settings)
    Agent.instrument_all(alone.settings)
    await alone.run()
    assert not seen.events
    Agent.instrument_all(chained.settings)

    with adapters.instrument("pydantic-ai"):
        assert adapters.active()["pydantic-ai"].chained
        await chained.run()

    assert Agent._instrument_default is chained.settings
    assert chained.told() == alone.told()
    assert any("the application's own" in str(span) for span in alone.told()[0])
    ends = [(row["event"], row["agent"], row["outcome"]) for row in told(seen.events) if row["event"] == "agent.end"]
    assert ends == [
        ("agent.end", "researcher", "ok"),
        ("agent.end", "planner", "ok"),
        ("agent.end", "writer", "cancelled"),
        ("agent.end", "failing", "error"),
    ]
    assert [record for record in caplog.records if "took" not in record.message] == []  # how busy the machine is aside
    Agent.instrument_all(False)


async def test_content_that_the_application_keeps_out_of_its_spans_stays_out_of_our_events(seen: Captured) -> None:
    application = Application(include_content=False)
    Agent.instrument_all(application.settings)

    with adapters.instrument("pydantic-ai"):
        await application.run()

    rows = repr([row for row in told(seen.events) if "error_message" not in row])
    assert "Plan it" not in rows
    assert "tides" not in rows
    assert "high and low" not in rows
    Agent.instrument_all(False)


async def test_spans_that_the_application_drops_cost_us_nothing(seen: Captured) -> None:
    provider = TracerProvider(sampler=ALWAYS_OFF)
    Agent.instrument_all(InstrumentationSettings(tracer_provider=provider, meter_provider=NoOpMeterProvider()))

    with adapters.instrument("pydantic-ai"):
        await Agent(TestModel(custom_output_text="yes"), name="guide").run("Well?")

    assert [row.get("output_tokens") for row in told(seen.events) if row["event"] == "llm.response"] == [1]
    Agent.instrument_all(False)


async def test_instrument_all_true_means_the_global_provider_and_is_restored(seen: Captured) -> None:
    Agent.instrument_all(True)

    with adapters.instrument("pydantic-ai"):
        await Agent(TestModel(custom_output_text="yes"), name="guide").run("Well?")

    assert Agent._instrument_default is True
    assert [row["event"] for row in told(seen.events)] == ["agent.start", "llm.request", "llm.response", "agent.end"]
    Agent.instrument_all(False)


async def test_an_application_that_chains_by_hand_for_one_agent(seen: Captured) -> None:
    from pydantic_ai.capabilities import Instrumentation

    from otel_agentbus.adapters.pydantic_ai import BusInstrumentation

    application = Application()
    own = Instrumentation(settings=BusInstrumentation(application.settings))
    agent = Agent(TestModel(custom_output_text="yes"), name="guide", capabilities=[own])

    await agent.run("Well?")

    assert [span[0] for span in application.told()[0]] == ["chat test", "invoke_agent guide"]
    assert [row["event"] for row in told(seen.events)] == ["agent.start", "llm.request", "llm.response", "agent.end"]


@pytest.fixture(autouse=True)
def _no_logging_noise(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
