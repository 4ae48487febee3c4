"""Exemplars: a point of a histogram leads to the span of the very call that fell into it, and never to another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricsData
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, TraceIdRatioBased

import otel_agentbus as agentbus
from otel_agentbus import Router, Settings, connect
from otel_agentbus.events import AgentEnd, Event, LlmResponse, ToolCall
from otel_agentbus.telemetry.ids import Ids
from otel_agentbus.telemetry.metrics import MetricsBridge

from .bridging import Connected, connected
from .receivers import forget_environment
from .test_live import ForeignProvider

BOTH = Settings(conventions="both")
TRACE = f"00-{'1' * 32}-{'0' * 16}-01"

CALL = {
    *("gen_ai.client.token.usage", "gen_ai.client.operation.duration", "gen_ai.client.operation.time_to_first_chunk"),
    *("gen_ai.client.inference.duration", "gen_ai.client.inference.time_to_first_chunk"),
    *("gen_ai.client.inference.operation.input_tokens", "gen_ai.client.inference.operation.output_tokens"),
}
RUN = {"gen_ai.invoke_agent.duration", "gen_ai.invoke_agent.inference_calls", "gen_ai.invoke_agent.tool_calls"}
TOOL = {"gen_ai.execute_tool.duration"}
#: What the metric is the duration of, as its span is.
DURATIONS = {name for name in CALL | RUN | TOOL if name.endswith(".duration")}


class Linked(NamedTuple):
    """An exemplar."""

    metric: str
    value: float
    trace_id: int
    span_id: int


def exemplars(reader: InMemoryMetricReader) -> list[Linked]:
    data = reader.get_metrics_data()
    assert isinstance(data, MetricsData)
    return list(_exemplars(data))


def _exemplars(data: MetricsData) -> Iterator[Linked]:
    for metric in (metric for rm in data.resource_metrics for sm in rm.scope_metrics for metric in sm.metrics):
        for point in metric.data.data_points:
            for found in point.exemplars:
                yield Linked(metric.name, found.value, found.trace_id or 0, found.span_id or 0)


def measured(reader: InMemoryMetricReader) -> set[str]:
    """The histograms that have measured something."""
    data = reader.get_metrics_data()
    assert isinstance(data, MetricsData)
    return {
        metric.name
        for rm in data.resource_metrics
        for sm in rm.scope_metrics
        for metric in sm.metrics
        for point in metric.data.data_points
        if getattr(point, "count", 0)
    }


def work(name: str = "planner") -> None:
    """An agent with a sub-agent, which both call a model and a tool."""
    with agentbus.agent(name) as run:
        with run.llm(provider="openai", model="gpt") as call:
            call.record(input_tokens=5, output_tokens=2, time_to_first_chunk=0.01)
        with run.tool("search"), agentbus.agent("helper") as helper:
            with helper.llm(provider="openai", model="gpt") as call:
                call.record(input_tokens=900, output_tokens=70, time_to_first_chunk=0.02)
            with helper.tool("read"):
                pass


def seconds(span: ReadableSpan) -> float:
    assert span.start_time is not None
    assert span.end_time is not None
    return (span.end_time - span.start_time) / 1e9


def linked_spans(seen: Connected, want: set[str]) -> list[tuple[Linked, ReadableSpan]]:
    """The exemplars of these metrics with the spans that they name: exported ones of their kind, and as long."""
    spans = {span.context.span_id: span for span in seen.spans if span.context is not None}
    found = exemplars(seen.reader)
    assert {link.metric for link in found} == want
    for link in found:
        span = spans[link.span_id]
        assert span.context is not None
        assert span.context.trace_id == link.trace_id
        assert span.name.startswith("chat" if link.metric in CALL else "execute" if link.metric in TOOL else "invoke")
        if link.metric in DURATIONS:
            assert link.value == pytest.approx(seconds(span), abs=1e-9)
    return [(link, spans[link.span_id]) for link in found]


def test_each_point_of_a_sampled_run_leads_to_the_span_of_that_call() -> None:
    with connected(settings=BOTH) as seen:
        work()
        linked_spans(seen, CALL | RUN | TOOL)


def test_tokens_lead_to_the_call_that_used_them() -> None:
    with connected(settings=BOTH) as seen:
        work()
        used = {
            (link.value, (span.attributes or {})["gen_ai.usage.input_tokens"])
            for link, span in linked_spans(seen, CALL | RUN | TOOL)
            if link.metric.endswith("operation.input_tokens")
        }
    assert used == {(5, 5), (900, 900)}


def test_what_is_not_sampled_has_no_exemplar_and_is_measured() -> None:
    with connected(ALWAYS_OFF, settings=BOTH) as seen:
        work()
        assert seen.bus.flush()
        assert exemplars(seen.reader) == []
        assert measured(seen.reader) == CALL | RUN | TOOL


def test_of_many_runs_only_the_sampled_ones_are_linked() -> None:
    with connected(TraceIdRatioBased(0.3), settings=BOTH) as seen:
        for number in range(60):
            work(f"planner {number}")
        links = linked_spans(seen, CALL | RUN | TOOL)
        roots = [span.name for span in seen.spans if span.name.startswith("invoke_agent planner")]
        linked = [
            span.name
            for link, span in links
            if link.metric == "gen_ai.invoke_agent.duration" and span.name.startswith("invoke_agent planner")
        ]
    assert 0 < len(roots) < 60
    assert sorted(linked) == sorted(roots)  # each agent has a point of its own, and one measurement in it


def test_below_an_outer_span_the_trace_is_the_outer_one() -> None:
    with connected(settings=BOTH) as seen:
        with seen.provider.get_tracer("app").start_as_current_span("GET /") as outer:
            work()
        links = linked_spans(seen, CALL | RUN | TOOL)
        assert {link.trace_id for link, _ in links} == {outer.get_span_context().trace_id}
        assert outer.get_span_context().span_id not in {link.span_id for link, _ in links}


def test_below_an_outer_span_that_is_not_sampled_there_is_none() -> None:
    with connected(settings=BOTH) as seen:
        dropping = TracerProvider(sampler=ALWAYS_OFF, shutdown_on_exit=False)
        with dropping.get_tracer("app").start_as_current_span("GET /"):
            work()
        assert seen.bus.flush()
        assert exemplars(seen.reader) == []
        assert measured(seen.reader) == CALL | RUN | TOOL


async def test_runs_side_by_side_are_not_mixed_up() -> None:
    async def one(number: int) -> None:
        async with agentbus.agent(f"agent {number}") as run:
            await asyncio.sleep(0)
            async with run.llm(provider="openai", model=f"model {number}") as call:
                await asyncio.sleep(0)
                call.record(input_tokens=number)
            async with run.tool(f"tool {number}"):
                await asyncio.sleep(0)

    with connected(settings=BOTH) as seen:
        await asyncio.gather(*(one(number) for number in range(20)))
        spans = {span.context.span_id: span for span in seen.spans if span.context is not None}
        data = seen.reader.get_metrics_data()
    assert isinstance(data, MetricsData)
    points = [
        point
        for rm in data.resource_metrics
        for sm in rm.scope_metrics
        for metric in sm.metrics
        for point in metric.data.data_points
        if getattr(point, "exemplars", ())
    ]
    assert len(points) >= 20 * len(DURATIONS)
    for point in points:
        for found in point.exemplars:
            said: dict[str, Any] = dict(spans[found.span_id].attributes or {})
            named: dict[str, Any] = dict(point.attributes or {})
            both = named.keys() & said.keys()
            assert both
            assert {key: said[key] for key in both} == {key: named[key] for key in both}


# -- where the span is not known --------------------------------------------------------------------------------------


def test_where_a_foreign_tracer_gives_the_ids_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)
    reader = InMemoryMetricReader()
    foreign, meter_provider = ForeignProvider(), MeterProvider([reader], shutdown_on_exit=False)
    with connect(tracer_provider=foreign, meter_provider=meter_provider, settings=BOTH) as bus:
        work()
        assert bus.flush()
        assert len(foreign.spans) == 6
        assert exemplars(reader) == []
        assert measured(reader) == CALL | RUN | TOOL


EVENTS: tuple[Event, ...] = (
    LlmResponse(model_provider="p", model="m", duration=0.1, success=True, input_tokens=7, call_id="c"),
    ToolCall(tool="t", duration=0.1, success=True, tool_call_id="t"),
    AgentEnd(agent="a", invocation_id="i", duration=0.1),
)


def test_a_bridge_that_knows_no_ids_does_not_link_whatever_span_is_current() -> None:
    reader = InMemoryMetricReader()
    router = Router()
    router.subscribe(MetricsBridge(MeterProvider([reader], shutdown_on_exit=False)))
    with TracerProvider(shutdown_on_exit=False).get_tracer("app").start_as_current_span("GET /"):
        for event in EVENTS:
            router.emit(event)
    assert exemplars(reader) == []
    assert len(measured(reader)) == 4


@pytest.mark.parametrize("odd", [7, ["c"], {}, b"c", "\ud800"])
@pytest.mark.parametrize(
    "field", ["call_id", "tool_call_id", "invocation_id", "root_invocation_id", "trace", "attempt"]
)
def test_an_id_that_is_none_costs_the_link_and_not_the_measurement(field: str, odd: Any) -> None:
    reader = InMemoryMetricReader()
    bridge = MetricsBridge(MeterProvider([reader], shutdown_on_exit=False), ids=Ids())
    for event in (
        LlmResponse(model_provider="p", model="m", duration=0.1, success=True, input_tokens=7, call_id="c"),
        ToolCall(tool="t", duration=0.1, success=True, tool_call_id="t"),
        AgentEnd(agent="a", duration=0.1),
    ):
        event.trace, event.root_invocation_id, event.invocation_id = TRACE, "root", "i"
        if hasattr(event, field):
            setattr(event, field, odd)
        bridge(event)
    assert {"gen_ai.client.token.usage", "gen_ai.invoke_agent.duration", "gen_ai.execute_tool.duration"} <= measured(
        reader
    )
    for link in exemplars(reader):
        assert link.trace_id == int("1" * 32, 16)


@pytest.mark.parametrize(("trace", "linked"), [(TRACE, int("1" * 32, 16)), (TRACE[:-2] + "00", 0), (None, 0)])
def test_where_all_measurements_are_examples_those_that_are_not_sampled_link_nowhere(
    trace: str | None, linked: int
) -> None:
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], exemplar_filter=AlwaysOnExemplarFilter(), shutdown_on_exit=False)
    event = ToolCall(tool="t", duration=0.1, success=True, tool_call_id="t", trace=trace, root_invocation_id="r")
    MetricsBridge(provider, ids=Ids())(event)
    assert [link.trace_id for link in exemplars(reader) if link.metric in TOOL] == [linked]


def test_deployments_are_no_part_of_a_run_and_link_nowhere() -> None:
    with connected(settings=BOTH) as seen:
        with seen.provider.get_tracer("app").start_as_current_span("deploy"):
            seen.bus.emit(agentbus.events.DeploymentStarted(deploy_id="1"))
            seen.bus.emit(agentbus.events.DeploymentCompleted(deploy_id="1", commit_sha="abc"))
        assert seen.bus.flush()
        assert measured(seen.reader) == {"agentbus.deployment.duration"}
        assert exemplars(seen.reader) == []
