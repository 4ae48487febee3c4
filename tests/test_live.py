"""A tracer provider that is not the SDK's: blocks make their real spans there themselves."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from otel_agentbus import Settings, agent, carry, connect, extract, inject, llm, resume, stream, tool
from otel_agentbus.events import AgentStart, Event, LlmResponse

from .hostile import oddities
from .receivers import forget_environment, in_a_process_of_its_own

NUMBERS = itertools.count(1)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)


@dataclass(eq=False)
class ForeignSpan(trace.Span):
    """Another vendor's span."""

    name: str
    parent: SpanContext | None
    kind: SpanKind
    attributes: dict[str, Any]
    start_ns: int | None
    context: SpanContext
    links: list[Link] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    status: tuple[StatusCode, str | None] = (StatusCode.UNSET, None)
    ends: list[int | None] = field(default_factory=list)
    failing: bool = False

    def get_span_context(self) -> SpanContext:
        return self.context

    def is_recording(self) -> bool:
        return not self.ends

    def set_attribute(self, key: str, value: Any) -> None:
        self.attributes[key] = value

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        if self.failing:
            raise RuntimeError("a vendor's own trouble")
        self.attributes.update(attributes)

    def add_event(self, name: str, attributes: Any = None, timestamp: int | None = None) -> None:
        self.events.append(name)

    def add_link(self, context: SpanContext, attributes: Any = None) -> None:
        self.links.append(Link(context, attributes))

    def update_name(self, name: str) -> None:
        self.name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        if isinstance(status, Status):
            self.status = (status.status_code, status.description)
        else:
            self.status = (status, description)

    def record_exception(self, exception: BaseException, *_: Any, **__: Any) -> None:
        self.events.append(type(exception).__name__)

    def end(self, end_time: int | None = None) -> None:
        self.ends.append(end_time)


class ForeignTracer(trace.Tracer):
    def __init__(self, provider: ForeignProvider) -> None:
        self.provider = provider

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Any = None,
        links: Sequence[Link] | None = (),
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> trace.Span:
        if self.provider.failing == "start":
            raise RuntimeError("a vendor's own trouble")
        above = trace.get_current_span(context).get_span_context()
        parent = above if above.is_valid else None
        trace_id = above.trace_id if above.is_valid else next(NUMBERS)
        own = SpanContext(trace_id, next(NUMBERS), is_remote=False, trace_flags=TraceFlags(1))
        span = ForeignSpan(name, parent, kind, dict(attributes or {}), start_time, own, list(links or ()))
        span.failing = self.provider.failing == "end"
        self.provider.spans.append(span)
        return span

    @contextmanager
    def current(self, name: str) -> Iterator[trace.Span]:
        with trace.use_span(self.start_span(name), end_on_exit=True) as span:
            yield span

    def start_as_current_span(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError


class ForeignProvider(trace.TracerProvider):
    """Another vendor's provider: nothing of the SDK in it."""

    def __init__(self, failing: str = "") -> None:
        self.spans: list[ForeignSpan] = []
        self.failing = failing

    def get_tracer(self, *_: Any, **__: Any) -> trace.Tracer:
        return ForeignTracer(self)

    def named(self, name: str) -> ForeignSpan:
        (found,) = (span for span in self.spans if span.name == name)
        return found

    def tree(self) -> list[tuple[str, str | None]]:
        """The spans in the order of their starts, each with its parent's name; every one must have ended once."""
        assert [len(span.ends) for span in self.spans] == [1] * len(self.spans)
        names = {span.context.span_id: span.name for span in self.spans}
        return [
            (span.name, None if span.parent is None else names.get(span.parent.span_id, "?")) for span in self.spans
        ]


def test_blocks_make_real_spans_with_the_right_parents_times_and_kinds() -> None:
    provider = ForeignProvider()
    heard: list[Event] = []
    with connect(tracer_provider=provider) as bus:
        bus.subscribe(heard.append)
        with agent("a") as run:
            with run.tool("t"), agent("b"), llm("m", provider="openai") as call:
                call.record(input_tokens=3)
            with run.llm("n"):
                pass
    assert provider.tree() == [
        ("invoke_agent a", None),
        ("execute_tool t", "invoke_agent a"),
        ("invoke_agent b", "execute_tool t"),
        ("chat m", "invoke_agent b"),
        ("chat n", "invoke_agent a"),
    ]
    assert len({span.context.trace_id for span in provider.spans}) == 1
    chat = provider.named("chat m")
    assert chat.kind is SpanKind.CLIENT
    assert chat.attributes["gen_ai.usage.input_tokens"] == 3
    assert chat.attributes["gen_ai.provider.name"] == "openai"
    times = {event.time_ns for event in heard}
    assert {span.start_ns for span in provider.spans} | {span.ends[0] for span in provider.spans} == times


def test_a_model_calls_span_has_its_price_and_an_agents_span_no_guess_about_its_totals() -> None:
    provider = ForeignProvider()
    with connect(tracer_provider=provider) as bus:
        bus.accounting.prices.load()
        with agent("a") as run:
            with run.llm("gpt-5-mini", provider="openai") as call:
                call.record(input_tokens=1000, output_tokens=100)
            run.record(tokens_used=7)
    chat, whole = provider.named("chat gpt-5-mini").attributes, provider.named("invoke_agent a").attributes
    assert (chat["agentbus.cost.usd"], chat["agentbus.cost.status"]) == (0.00045, "priced")
    assert (whole["agentbus.reported.tokens"], "agentbus.usage.mismatch" in whole) == (7, False)


def test_the_block_is_the_current_span_of_user_code_and_is_left_behind() -> None:
    provider = ForeignProvider()
    with connect(tracer_provider=provider):
        with agent("a"), llm("m"):
            current = trace.get_current_span()
            assert current is provider.named("chat m")
            current.set_attribute("mine", 1)
            with ForeignTracer(provider).current("http"):
                pass
        assert trace.get_current_span() is trace.INVALID_SPAN
    assert provider.tree()[-1] == ("http", "chat m")
    assert provider.named("chat m").attributes["mine"] == 1


def test_the_applications_outer_span_is_the_parent_of_the_root() -> None:
    provider = ForeignProvider()
    with connect(tracer_provider=provider), ForeignTracer(provider).current("request"), agent("a"):
        pass
    assert provider.tree() == [("request", None), ("invoke_agent a", "request")]


def test_errors_are_errors_and_cancellations_are_not() -> None:
    provider = ForeignProvider()
    with connect(tracer_provider=provider):
        with pytest.raises(ValueError, match="boom"), agent("a"), tool("t"):
            raise ValueError("boom")
        with pytest.raises(KeyboardInterrupt), agent("b"):
            raise KeyboardInterrupt
    failed = provider.named("execute_tool t")
    assert failed.status == (StatusCode.ERROR, "boom")
    assert failed.attributes["error.type"] == "ValueError"
    assert "exception" in failed.events
    cancelled = provider.named("invoke_agent b")
    assert cancelled.status == (StatusCode.UNSET, None)
    assert cancelled.attributes["agentbus.outcome"] == "cancelled"
    assert "error.type" not in cancelled.attributes


def test_streams_tasks_and_threads_keep_their_places() -> None:
    provider = ForeignProvider()

    async def child(name: str) -> None:
        async with agent(name), llm("m"):
            await asyncio.sleep(0)

    async def main() -> None:
        async with agent("root"):
            await asyncio.gather(child("one"), child("two"))

    def chunks() -> Iterator[str]:
        yield "a"
        with agent("inner"):
            yield "b"

    def threaded() -> None:
        with agent("in a thread"):
            pass

    with connect(tracer_provider=provider):
        asyncio.run(main())
        with agent("streaming"):
            assert list(stream(chunks(), llm("s"))) == ["a", "b"]
        with agent("threaded"):
            in_a_thread(carry(threaded))
        with agent("bare thread") as run:
            in_a_thread(lambda: run.llm("of its run").start().end())
    parents = dict(provider.tree())
    assert parents["invoke_agent one"] == parents["invoke_agent two"] == "invoke_agent root"
    assert parents["chat s"] == "invoke_agent streaming"
    assert parents["invoke_agent inner"] == "chat s"
    assert parents["invoke_agent in a thread"] == "invoke_agent threaded"
    assert parents["chat of its run"] == "invoke_agent bare thread"


def in_a_thread(function: Callable[[], object]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


def test_blocks_that_end_in_another_order_than_they_began_leave_nothing_current() -> None:
    provider = ForeignProvider()
    with connect(tracer_provider=provider):
        outer = agent("outer").start()
        inner = agent("inner").start()
        outer.end()
        inner.end()
        assert not trace.get_current_span().get_span_context().is_valid
        with agent("next"):
            pass
    assert provider.tree() == [
        ("invoke_agent outer", None),
        ("invoke_agent inner", "invoke_agent outer"),
        ("invoke_agent next", None),
    ]


def test_a_block_ends_its_span_once_even_if_it_is_open_when_the_bus_closes() -> None:
    provider = ForeignProvider()
    with connect(tracer_provider=provider):
        block = agent("a").start()
    block.end()
    block.end()
    assert provider.tree() == [("invoke_agent a", None)]


def test_a_resumed_run_is_below_its_caller_or_linked_to_it() -> None:
    carrier: dict[str, str] = {}
    provider = ForeignProvider()
    with connect(tracer_provider=provider):
        with agent("caller"):
            inject(carrier)
        with resume(carrier), agent("callee"):
            pass
        with resume(carrier, policy="link"), agent("linked"):
            pass
    assert extract(carrier) is not None
    caller, linked = provider.named("invoke_agent caller"), provider.named("invoke_agent linked")
    assert provider.named("invoke_agent callee").parent is not None
    assert provider.named("invoke_agent callee").parent.span_id == caller.context.span_id  # type: ignore[union-attr]  # it has one
    assert linked.parent is None
    assert [link.context.span_id for link in linked.links] == [caller.context.span_id]


SECRET = "sk-proj-abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKL"


@pytest.mark.parametrize("capture", ["NO_CONTENT", "SPAN_ONLY"])
def test_content_and_secrets_stay_home_here_too(capture: str) -> None:
    provider = ForeignProvider()
    with connect(tracer_provider=provider, settings=Settings(capture_content=capture)):
        with (
            agent("a", api_key=SECRET, note=f"the key is {SECRET}"),
            llm("m", messages=[{"role": "user", "content": "the prompt"}]) as call,
        ):
            call.record(messages=[{"role": "assistant", "content": "the answer"}], hint=f"key {SECRET}")
        with pytest.raises(ValueError, match="failed"), tool("t", arguments={"q": "the argument"}):
            raise ValueError(f"failed with {SECRET}")
    said = repr([(span.attributes, span.status, span.events) for span in provider.spans])
    assert SECRET not in said
    for content in ("the prompt", "the answer", "the argument"):
        assert (content in said) == (capture == "SPAN_ONLY")


@pytest.mark.parametrize("failing", ["start", "end"])
def test_a_vendors_failure_never_reaches_the_agent_and_costs_no_event(failing: str) -> None:
    provider = ForeignProvider(failing)
    heard: list[str] = []
    with connect(tracer_provider=provider) as bus:
        bus.on()(lambda event: heard.append(event.kind))
        with agent("a") as run, run.llm("m") as call:
            call.record(input_tokens=1)
        assert not trace.get_current_span().get_span_context().is_valid
    assert heard == ["agent.start", "llm.request", "llm.response", "agent.end"]
    assert [len(span.ends) for span in provider.spans] == [1] * len(provider.spans)


def test_events_that_come_without_a_block_make_no_spans_there() -> None:
    provider = ForeignProvider()
    with connect(tracer_provider=provider) as bus:
        bus.emit(AgentStart(invocation_id="r", agent="a"))
        bus.emit(LlmResponse(model_provider="p", model="m", duration=0.1, success=True, invocation_id="r"))
        assert bus.flush()
    assert provider.spans == []


def test_attributes_that_are_nothing_for_a_span_never_raise() -> None:
    provider = ForeignProvider()
    with connect(tracer_provider=provider):
        for odd in oddities():
            with agent("a", odd=odd, input=odd), llm("m", messages=odd, messages_count=1) as call:
                call.record(odd=odd, messages=odd, input_tokens=odd)
    assert len(provider.spans) == 2 * len(oddities())
    assert all(len(span.ends) == 1 for span in provider.spans)


def test_a_foreign_provider_that_is_set_after_connecting_is_used_from_the_first_block_on() -> None:
    code = """
import json
from opentelemetry import trace
import otel_agentbus as agentbus
from tests.test_live import ForeignProvider

bus = agentbus.connect()
provider = ForeignProvider()
trace.set_tracer_provider(provider)
with agentbus.agent("a") as run, run.llm("m"):
    pass
bus.close()
print(json.dumps(provider.tree()))
"""
    assert in_a_process_of_its_own(code) == [["invoke_agent a", None], ["chat m", "invoke_agent a"]]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_block_that_is_open_at_a_fork_is_ended_by_the_parent_only() -> None:
    code = """
import json, os
import otel_agentbus as agentbus
from tests.test_live import ForeignProvider

provider = ForeignProvider()
bus = agentbus.connect(tracer_provider=provider)
reader, writer = os.pipe()
with agentbus.agent("outer"):
    pid = os.fork()
    if pid == 0:
        with agentbus.agent("child"):
            pass
if pid == 0:
    os.write(writer, json.dumps([[span.name, len(span.ends)] for span in provider.spans]).encode())
    os._exit(0)
os.waitpid(pid, 0)
print(json.dumps([json.loads(os.read(reader, 1000)), provider.tree()]))
"""
    child, parent = in_a_process_of_its_own(code)
    assert child == [["invoke_agent outer", 0], ["invoke_agent child", 1]]
    assert parent == [["invoke_agent outer", None]]
