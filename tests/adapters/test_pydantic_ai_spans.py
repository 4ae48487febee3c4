"""The trace of a pydantic-ai program: right parents, also for the spans of others, in every way of running it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer, get_current_span, set_span_in_context, use_span
from pydantic_ai import Agent, RunContext
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

from otel_agentbus import adapters, observe
from otel_agentbus.adapters.losses import losses
from otel_agentbus.adapters.pydantic_ai import BusInstrumentation, trace_agent
from otel_agentbus.testing import Captured


@pytest.fixture(autouse=True)
def instrumented(caplog: pytest.LogCaptureFixture) -> Iterator[adapters.Instrumented]:
    losses.counts.clear()
    caplog.set_level(logging.WARNING)
    with adapters.instrument("pydantic-ai") as handle:
        yield handle
    assert not losses.counts
    assert not caplog.records


class Others:
    """Another instrumentation, an HTTP client's say, with a provider of its own."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("http")

    def get(self, url: str) -> None:
        with self.tracer.start_as_current_span(f"GET {url}", kind=SpanKind.CLIENT):
            pass

    def parents(self) -> dict[str, int | None]:
        return {span.name: span.parent and span.parent.span_id for span in self.exporter.get_finished_spans()}


def span_id(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.span_id)


def script(*parts: ToolCallPart) -> FunctionModel:
    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=list(parts) if len(messages) == 1 else [TextPart("done")])

    return FunctionModel(answer, model_name="large")


async def test_the_tree_of_a_program(seen: Captured) -> None:
    agent = Agent(script(ToolCallPart("ask", {"topic": "tides"}, "c1"), ToolCallPart("note", {}, "c2")), name="planner")

    @agent.tool_plain(sequential=True)
    async def ask(topic: str) -> str:
        return (await Agent(TestModel(), name="researcher").run(topic)).output

    @agent.tool_plain(sequential=True)
    def note() -> str:
        return "noted"

    with observe.agent("campaign"):
        await agent.run("Plan it")

    seen.assert_tree("""
        invoke_agent campaign
        └─ invoke_agent planner
           ├─ chat large
           ├─ execute_tool ask
           │  └─ invoke_agent researcher
           │     └─ chat test
           ├─ execute_tool note
           └─ chat large
    """)
    [chat] = [span for span in seen.spans if span.name == "chat test"]
    assert chat.kind is SpanKind.CLIENT
    assert {
        key: (chat.attributes or {}).get(key) for key in ("gen_ai.provider.name", "gen_ai.usage.output_tokens")
    } == {
        "gen_ai.provider.name": "test",
        "gen_ai.usage.output_tokens": 4,
    }


async def test_spans_of_others_nest_under_what_is_exported(seen: Captured) -> None:
    others = Others()

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        others.get(f"model/{len(messages)}")
        return ModelResponse(parts=[ToolCallPart("fetch", {}, "c1")] if len(messages) == 1 else [TextPart("done")])

    agent = Agent(FunctionModel(answer, model_name="large"), name="reader")

    @agent.tool_plain
    def fetch() -> str:
        others.get("page")
        return "text"

    await agent.run("Read")

    first, second = [span for span in seen.spans if span.name == "chat large"]
    assert others.parents() == {
        "GET model/1": span_id(first),
        "GET page": span_id(seen.span("execute_tool fetch")),
        "GET model/3": span_id(second),
    }


async def test_what_a_tool_says_about_the_current_span_stands_on_the_exported_one(seen: Captured) -> None:
    agent = Agent(script(ToolCallPart("pay", {}, "c1")), name="buyer")

    @agent.tool_plain
    def pay() -> str:
        span = get_current_span()
        span.set_attribute("shop.order", 7)
        span.add_event("paid", {"amount": 3})
        return "ok"

    await agent.run("Buy")

    span = seen.span("execute_tool pay")
    assert (span.attributes or {})["shop.order"] == 7
    assert [event.name for event in span.events] == ["paid"]
    assert span.status.status_code is StatusCode.UNSET


async def test_what_a_sync_tool_does_in_its_thread_nests_under_it(seen: Captured) -> None:
    agent = Agent(script(ToolCallPart("ask", {}, "c1")), name="planner")
    threads = [threading.current_thread()]

    @agent.tool_plain
    def ask() -> str:
        threads.append(threading.current_thread())
        with observe.llm("small", provider="local"):
            return "tides"

    await agent.run("Plan it")

    assert threads[0] is not threads[1]
    seen.assert_tree("""
        invoke_agent planner
        ├─ chat large
        ├─ execute_tool ask
        │  └─ chat small
        └─ chat large
    """)


def test_a_sync_run_is_observed_as_well(seen: Captured) -> None:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        assert Agent(TestModel(), name="guide").run_sync("Well?").output
    finally:
        asyncio.set_event_loop(None)
        loop.close()

    seen.assert_tree("""
        invoke_agent guide
        └─ chat test
    """)


async def test_a_stream_left_early_leaks_nothing_into_the_consumer(seen: Captured) -> None:
    agent = Agent(TestModel(custom_output_text="one two three"), name="writer")
    before = get_current_span()

    async with agent.run_stream_events("Write") as events:
        async for _ in events:
            break
    async with agent.run_stream("Write") as stream:
        async for _ in stream.stream_text(debounce_by=None):
            break

    assert get_current_span() is before
    assert observe.llm("x").start().invocation.id == ""
    assert {(span.attributes or {}).get("agentbus.outcome") for span in seen.spans} == {"cancelled"}
    assert {span.status.status_code for span in seen.spans} == {StatusCode.UNSET}


async def test_a_stream_that_another_task_closes_logs_nothing(seen: Captured) -> None:
    agent = Agent(TestModel(custom_output_text="one two three"), name="writer")
    stream = agent.run_stream_events("Write")
    await asyncio.create_task(stream.__aenter__())
    await asyncio.create_task(stream.__aexit__(None, None, None))

    await Agent(TestModel(), name="next").run("Go on")

    assert seen.span("invoke_agent next").parent is None


async def test_runs_that_have_begun_are_observed_to_their_end(
    seen: Captured, instrumented: adapters.Instrumented
) -> None:
    agent = Agent(script(ToolCallPart("switch", {}, "c1")), name="planner")

    @agent.tool_plain
    async def switch() -> str:
        instrumented.off()
        return (await Agent(TestModel(), name="unseen").run("Go on")).output

    await agent.run("Plan it")

    seen.assert_tree("""
        invoke_agent planner
        ├─ chat large
        ├─ execute_tool switch
        └─ chat large
    """)


async def test_a_span_that_a_tool_makes_with_the_frameworks_tracer_is_passed_through(seen: Captured) -> None:
    agent = Agent(script(ToolCallPart("work", {}, "c1")), name="planner")

    @agent.tool
    async def work(ctx: RunContext[object]) -> str:
        current = get_current_span()
        with ctx.tracer.start_as_current_span("step") as step:
            step.set_attribute("lost", "nothing is exported of it")
            assert get_current_span() is current
            assert step.get_span_context() == current.get_span_context()
        held = ctx.tracer.start_span("held")
        assert held.get_span_context() == current.get_span_context()
        held.end()
        return "ok"

    await agent.run("Plan it")

    assert "step" not in seen.tree()


# -- spans that are held by hand, as realtime sessions hold theirs -----------------------------------------------------


def tracer() -> Tracer:
    return BusInstrumentation().tracer


def test_spans_that_are_started_without_being_current_nest_by_the_context_given(seen: Captured) -> None:
    frames = tracer()
    agent = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "voice", "gen_ai.agent.call.id": "r1"}
    chat = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "live", "gen_ai.provider.name": "openai"}
    session = frames.start_span("invoke_agent voice", attributes=agent)
    assert not get_current_span().get_span_context().is_valid
    inside = set_span_in_context(session)
    first = frames.start_span("chat live", context=inside, attributes=chat)
    second = frames.start_span("chat live", context=inside, attributes=chat)
    first.set_attributes({"gen_ai.usage.input_tokens": 3, "gen_ai.usage.output_tokens": 2})
    second.record_exception(ConnectionError("gone"))
    second.set_status(Status(StatusCode.ERROR, "gone"))
    second.end()
    first.end()
    with (
        use_span(session),
        frames.start_as_current_span(
            "execute_tool look", attributes={"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "look"}
        ),
    ):
        pass
    session.end()

    seen.assert_tree("""
        invoke_agent voice
        ├─ chat live
        ├─ chat live
        └─ execute_tool look
    """)
    failed, answered = [span for span in seen.spans if span.name == "chat live"]
    assert (failed.attributes or {})["error.type"] == "ConnectionError"
    assert (answered.attributes or {})["gen_ai.usage.input_tokens"] == 3
    with observe.llm("x") as stray:
        assert not stray.invocation.id


def test_an_error_of_which_only_the_kind_is_told_is_an_error(seen: Captured) -> None:
    attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "look"}
    span = tracer().start_span("execute_tool look", attributes=attributes)
    span.add_event("exception", {"exception.type": "app.Broken"})
    span.set_status(StatusCode.ERROR)
    span.end()
    span.end()

    [exported] = seen.spans
    assert (exported.attributes or {})["error.type"] == "app.Broken"
    assert exported.status.status_code is StatusCode.ERROR
    assert not span.is_recording()


# -- trace_agent on this bus -------------------------------------------------------------------------------------------


async def test_trace_agent_on_the_bus_itself_tells_domain_events_of_the_run_and_counts_no_call_twice(
    seen: Captured,
) -> None:
    agent = Agent(script(ToolCallPart("note", {}, "c1")), name="planner")

    @agent.tool_plain
    def note() -> str:
        return "noted"

    result = await trace_agent(agent, seen.bus.publish, "Plan it")

    assert result.output == "done"
    domain = [event for event in seen.events if event.kind == "domain"]
    assert [event.name for event in domain] == [  # type: ignore[attr-defined]  # of domain events
        "llm_request",
        "llm_response",
        "llm_tool_call",
        "llm_tool_result",
        "llm_request",
        "llm_response",
        "llm_complete",
    ]
    assert {event.invocation_id for event in domain} == {result.run_id}
    assert [event.data.get("result") for event in domain if event.name == "llm_tool_result"] == ["noted"]  # type: ignore[attr-defined]
    seen.assert_tree("""
        invoke_agent planner
        ├─ chat large
        ├─ execute_tool note
        └─ chat large
    """)
    assert sum(seen.metric("agentbus.llm.calls").values()) == 2
