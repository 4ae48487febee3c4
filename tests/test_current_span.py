"""The OpenTelemetry context in blocks: their span is current inside, and what was is current again afterwards."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanContext, StatusCode, TraceFlags

import otel_agentbus as agentbus
from otel_agentbus.testing import Captured, capture

from .observing import assert_balanced, outcomes, parents


@pytest.fixture
def seen() -> Iterator[Captured]:
    with capture() as captured:
        yield captured
    assert_balanced(captured)


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """What a test leaks on purpose does not reach the next one."""
    before = context.get_current()
    yield
    context.attach(before)


@pytest.fixture
def foreign() -> tuple[Any, InMemorySpanExporter]:
    """The tracer of some other instrumentation, and what it exports."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider.get_tracer("httpx"), exporter


Foreign = tuple[Any, InMemorySpanExporter]


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent is not None else None


def id_of(span: ReadableSpan) -> int:
    assert span.context is not None
    found: int = span.context.span_id
    return found


# -- what nests --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["agent", "llm", "tool"])
def test_spans_of_other_instrumentation_nest_under_the_block(seen: Captured, foreign: Foreign, kind: str) -> None:
    tracer, exporter = foreign
    with (
        getattr(agentbus, kind)("b") as block,
        tracer.start_as_current_span("GET"),
        tracer.start_as_current_span("connect"),
    ):
        pass
    connect, get = exporter.get_finished_spans()
    (ours,) = seen.spans
    assert parent_of(get) == id_of(ours) == block.span.get_span_context().span_id
    assert parent_of(connect) == id_of(get)
    assert get.context.trace_id == ours.context.trace_id


def test_a_block_under_a_foreign_span_joins_its_trace(seen: Captured, foreign: Foreign) -> None:
    tracer, exporter = foreign
    with tracer.start_as_current_span("request"), agentbus.agent("a") as run, run.llm("m"):
        pass
    (request,) = exporter.get_finished_spans()
    agent, llm = seen.span("invoke_agent a"), seen.span("chat m")
    assert parent_of(agent) == id_of(request)
    assert parent_of(llm) == id_of(agent)
    assert {span.context.trace_id for span in (agent, llm)} == {request.context.trace_id}


@pytest.mark.parametrize("kind", ["agent", "llm", "tool"])
def test_what_is_said_on_the_current_span_arrives_on_the_exported_one(seen: Captured, kind: str) -> None:
    target = SpanContext(5, 6, is_remote=True, trace_flags=TraceFlags(1))
    with getattr(agentbus, kind)("b"):
        span = trace.get_current_span()
        assert span.is_recording()
        span.set_attribute("one", 1)
        span.set_attributes({"two": "2", "many": ["a", "b"]})
        span.add_event("milestone", {"n": 1}, timestamp=7)
        span.add_link(target, {"why": "because"})
        span.update_name("renamed")
        span.set_status(StatusCode.ERROR, "not good")
        span.record_exception(ValueError("recorded"))
        span.end()
    assert not span.is_recording()
    span.set_attribute("late", 1)
    (exported,) = seen.spans
    attributes = dict(exported.attributes or {})
    assert (attributes["one"], attributes["two"], attributes["many"]) == (1, "2", ("a", "b"))
    assert "late" not in attributes
    assert exported.name == "renamed"
    assert (exported.status.status_code, exported.status.description) == (StatusCode.ERROR, "not good")
    assert [(event.name, event.timestamp) for event in exported.events if event.name == "milestone"] == [
        ("milestone", 7)
    ]
    (exception,) = [event for event in exported.events if event.name == "exception"]
    said = dict(exception.attributes or {})
    assert (said["exception.type"], said["exception.message"]) == ("ValueError", "recorded")
    assert [(link.context, dict(link.attributes or {})) for link in exported.links] == [(target, {"why": "because"})]


def test_what_is_said_on_a_blocks_span_from_elsewhere_arrives_too(seen: Captured) -> None:
    with agentbus.agent("a") as run:
        with run.tool("t"):
            run.span.set_attribute("from the tool", True)
        threads = [threading.Thread(target=run.span.set_attribute, args=(f"k{n}", n)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    attributes = seen.span("invoke_agent a").attributes or {}
    assert attributes["from the tool"] is True
    assert [attributes[f"k{n}"] for n in range(4)] == [0, 1, 2, 3]


@pytest.mark.parametrize("value", [None, object(), {"a": 1}, [1, "a"], float("nan"), 10**30, "\ud800"])
def test_nonsense_that_is_said_on_the_span_costs_nothing_else(value: Any) -> None:
    with capture(validate_events=False) as seen, agentbus.tool("t"):
        span = trace.get_current_span()
        span.set_attribute("nonsense", value)
        span.add_event("event", {"nonsense": value})
        span.set_attribute("kept", 1)
    (exported,) = seen.spans
    assert (exported.attributes or {})["kept"] == 1


def test_baggage_of_the_caller_is_there_inside(seen: Captured) -> None:
    token = context.attach(baggage.set_baggage("tenant", "acme"))
    with agentbus.agent("a"), agentbus.tool("t"):
        assert baggage.get_baggage("tenant") == "acme"
    context.detach(token)


# -- what is current afterwards ----------------------------------------------------------------------------------------


def exits() -> list[Callable[[Any], None]]:
    def by_value(block: Any) -> None:
        with block:
            pass

    def by_exception(block: Any) -> None:
        with pytest.raises(KeyboardInterrupt), block:
            raise KeyboardInterrupt

    def by_hand(block: Any) -> None:
        block.start()
        block.end()

    return [by_value, by_exception, by_hand]


@pytest.mark.parametrize("kind", ["agent", "llm", "tool"])
@pytest.mark.parametrize("leave", exits(), ids=lambda leave: leave.__name__)
def test_after_every_exit_the_callers_context_is_what_it_was(seen: Captured, kind: str, leave: Any) -> None:
    for before in (context.get_current(), context.set_value("mine", 1)):
        token = context.attach(before)
        leave(getattr(agentbus, kind)("b"))
        assert context.get_current() is before
        context.detach(token)


def test_blocks_that_end_out_of_order_leave_the_callers_context(seen: Captured, foreign: Foreign) -> None:
    tracer, _ = foreign
    with tracer.start_as_current_span("request"):
        before = trace.get_current_span()
        first = agentbus.agent("first").start()
        second = agentbus.agent("second").start()
        third = agentbus.agent("third").start()
        second.end()
        assert trace.get_current_span() is third.span
        first.end()
        assert trace.get_current_span() is third.span
        third.end()
        assert trace.get_current_span() is before
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_what_user_code_attached_in_between_stays_attached(seen: Captured) -> None:
    block = agentbus.agent("a").start()
    token = context.attach(context.set_value("mine", 1))
    block.end()
    assert context.get_value("mine") == 1
    assert trace.get_current_span() is trace.INVALID_SPAN
    context.detach(token)
    with agentbus.agent("after") as after:
        assert after.invocation.is_root
    assert not trace.get_current_span().is_recording()


def test_a_user_span_that_is_still_current_stays_current(seen: Captured, foreign: Foreign) -> None:
    tracer, _ = foreign
    block = agentbus.agent("a").start()
    with tracer.start_as_current_span("left open") as span:
        block.end()
        assert trace.get_current_span() is span


def test_a_leaked_span_of_a_block_is_nobodys_parent(seen: Captured) -> None:
    block = agentbus.agent("leaked").start()
    leaked = context.get_current()
    thread = threading.Thread(target=block.end)
    thread.start()
    thread.join()
    assert context.get_current() is leaked
    with agentbus.agent("after") as after:
        assert after.invocation.is_root
    assert parents(seen) == {"leaked": None, "after": None}
    assert seen.span("invoke_agent after").parent is None


def test_below_a_leaked_span_the_callers_own_is_the_parent(seen: Captured, foreign: Foreign) -> None:
    tracer, exporter = foreign
    with tracer.start_as_current_span("request"):
        block = agentbus.agent("leaked").start()
        thread = threading.Thread(target=block.end)
        thread.start()
        thread.join()
        with agentbus.agent("after"):
            pass
    (request,) = exporter.get_finished_spans()
    assert parent_of(seen.span("invoke_agent after")) == id_of(request)


def test_leaked_spans_do_not_pile_up(seen: Captured) -> None:
    """Each block would else keep the one before it alive, for as long as the leaking thread lives."""

    def depth() -> int:
        found, span = 0, trace.get_current_span()
        while (block := getattr(span, "block", None)) is not None:
            found, span = found + 1, trace.get_current_span(block.base)
        return found

    for _ in range(10):
        block = agentbus.agent("leaked").start()
        thread = threading.Thread(target=block.end)
        thread.start()
        thread.join()
    assert depth() == 1


# -- carried without us ------------------------------------------------------------------------------------------------


def with_otel_context_only(function: Callable[[], None]) -> None:
    """As OpenTelemetry's own ThreadingInstrumentor: it carries the OpenTelemetry context and nothing else."""
    carried = context.get_current()

    def run() -> None:
        token = context.attach(carried)
        function()
        assert context.get_current() is carried
        context.detach(token)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def test_a_thread_that_got_the_opentelemetry_context_only_nests_too(seen: Captured) -> None:
    def work() -> None:
        with agentbus.agent("researcher"), agentbus.llm("m"):
            pass
        with agentbus.llm("second"):
            pass
        seen.bus.publish("happened")

    with agentbus.agent("planner") as run, run.tool("delegate"):
        with_otel_context_only(work)
    assert parents(seen) == {
        "planner": None,
        "delegate": "planner",
        "researcher": "delegate",
        "m": "researcher",
        "second": "delegate",
    }
    assert [event.name for event in seen.span("execute_tool delegate").events] == ["happened"]


async def test_tasks_restore_their_own_context_only(seen: Captured) -> None:
    async def work(number: int) -> None:
        before = context.get_current()
        for _ in range(3):
            async with agentbus.tool(f"tool {number}") as tool:
                await asyncio.sleep(0)
                assert trace.get_current_span() is tool.span
            assert context.get_current() is before

    async with agentbus.agent("a") as run:
        await asyncio.gather(*(work(number) for number in range(5)))
        assert trace.get_current_span() is run.span
    assert outcomes(seen)["a"] == "ok"


def test_links_of_the_api_are_what_arrives(seen: Captured) -> None:
    invalid = SpanContext(0, 0, is_remote=False)
    with agentbus.tool("t"):
        trace.get_current_span().add_link(invalid)
        trace.get_current_span().add_link(Link(SpanContext(1, 2, is_remote=False)).context)
    (exported,) = seen.spans
    assert [(link.context.trace_id, link.context.span_id) for link in exported.links] == [(1, 2)]
