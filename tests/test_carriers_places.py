"""What a carrier meets where it is written and resumed: other spans, other runs, old contents, functions, failures."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

import otel_agentbus as agentbus
from otel_agentbus import Invocation, current, extract, inject, resume
from otel_agentbus.carriers import Carried
from otel_agentbus.telemetry.ids import Ids
from otel_agentbus.testing import Captured, capture

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
FOREIGN = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
ENTRY = {"agentbus": "1;k;r;;1;talk;a;a"}
IDS = Ids()


@pytest.fixture
def seen() -> Iterator[Captured]:
    with capture() as captured:
        yield captured


@pytest.fixture(autouse=True)
def _leave_nothing_behind() -> Iterator[None]:
    before = context.get_current()
    yield
    assert current() is None
    assert context.get_current() is before


@pytest.fixture
def web() -> Any:
    """The tracer of a web framework's instrumentation."""
    return TracerProvider(shutdown_on_exit=False).get_tracer("web")


def place(span: ReadableSpan) -> tuple[str, str, bool] | None:
    """The parent of a span: trace, span, and whether it is remote."""
    return None if span.parent is None else where(span.parent)


def where(span: SpanContext) -> tuple[str, str, bool]:
    return f"{span.trace_id:032x}", f"{span.span_id:016x}", span.is_remote


def derived(
    kind: Any, run: str, local: str = "", *, trace_id: int | None = None, remote: bool
) -> tuple[str, str, bool]:
    """Where the span of a run or call of the tree `r` is."""
    found = IDS.trace_id("r") if trace_id is None else trace_id
    return f"{found:032x}", f"{IDS.span_id('r', kind, run, local):016x}", remote


# -- beside other spans ------------------------------------------------------------------------------------------------


def test_the_span_of_the_server_that_has_received_it_stays_and_is_the_parent(seen: Captured, web: Any) -> None:
    remote = trace.set_span_in_context(
        NonRecordingSpan(SpanContext(int(TRACE, 16), int(SPAN, 16), True, TraceFlags(1)))
    )
    with web.start_as_current_span("request", remote) as request:
        with resume(FOREIGN), agentbus.agent("a"):
            pass
        with resume({**FOREIGN, **ENTRY}):
            assert trace.get_current_span() is request
            with agentbus.agent("b"):
                pass
    assert place(seen.span("invoke_agent a")) == where(request.get_span_context())
    assert place(seen.span("invoke_agent b")) == derived("agent", "k", trace_id=int(TRACE, 16), remote=True)


def test_the_span_of_another_trace_gives_way_to_what_the_carrier_says(seen: Captured, web: Any) -> None:
    with web.start_as_current_span("request"), resume(FOREIGN), agentbus.agent("a"):
        pass
    assert place(seen.span("invoke_agent a")) == (TRACE, SPAN, True)


def test_under_a_span_of_another_trace_our_entry_alone_leads_to_the_tree_that_its_root_gives(
    seen: Captured, web: Any
) -> None:
    with web.start_as_current_span("request") as request, resume(ENTRY), agentbus.llm("m"), agentbus.agent("a") as run:
        assert run.invocation.root_id == "r"
        assert trace.get_current_span().get_span_context().trace_id != request.get_span_context().trace_id
    assert place(seen.span("chat m")) == derived("agent", "k", remote=True)
    call = run.invocation.parent_call_id or ""
    assert place(seen.span("invoke_agent a")) == derived("llm", "k", call.removeprefix("llm:"), remote=False)


def test_what_is_written_is_of_the_runs_trace_whatever_span_is_current(seen: Captured, web: Any) -> None:
    with agentbus.agent("a", invocation_id="r") as run, run.tool("t", tool_call_id="c") as tool:
        own = tool.span.get_span_context()
        with web.start_as_current_span("beside", context.Context()) as beside:
            assert beside.get_span_context().trace_id != own.trace_id
            assert inject()["traceparent"] == f"00-{own.trace_id:032x}-{own.span_id:016x}-{int(own.trace_flags):02x}"
        with web.start_as_current_span("below") as below:
            assert inject()["traceparent"].split("-")[2] == f"{below.get_span_context().span_id:016x}"
        token = context.attach(context.Context())
        assert inject()["traceparent"].split("-")[2] == f"{own.span_id:016x}"
        context.detach(token)


def test_of_a_tree_whose_trace_is_not_decided_the_entry_alone_is_written(seen: Captured, web: Any) -> None:
    with web.start_as_current_span("request"), resume(ENTRY):
        assert inject({**FOREIGN, "tracestate": "a=1"}) == {"agentbus": "1;k;r;;1;talk;a;a"}


def test_flags_that_nobody_knows_are_not_passed_on(seen: Captured) -> None:
    odd = SpanContext(int(TRACE, 16), int(SPAN, 16), True, TraceFlags(0xFF))
    with trace.use_span(NonRecordingSpan(odd)):
        assert inject() == {"traceparent": f"00-{TRACE}-{SPAN}-03"}


def test_links_are_to_spans_of_other_processes(seen: Captured) -> None:
    with resume(FOREIGN, "link"), agentbus.agent("a"), agentbus.tool("t"):
        pass
    assert [where(link.context) for link in seen.span("invoke_agent a").links] == [(TRACE, SPAN, True)]
    assert seen.span("execute_tool t").links == ()


def test_only_what_stands_directly_below_a_remote_run_has_a_remote_parent(seen: Captured) -> None:
    with resume({**FOREIGN, **ENTRY}), agentbus.tool("t"):
        with agentbus.llm("m"), agentbus.agent("a"):
            pass
        late = agentbus.carry(lambda: agentbus.agent("late").start().end())
    late()
    found = {span.name: span.parent.is_remote for span in seen.spans if span.parent is not None}
    assert found == {"execute_tool t": True, "chat m": False, "invoke_agent a": False, "invoke_agent late": False}


def test_what_lasts_of_a_remote_run_has_a_remote_parent(seen: Captured) -> None:
    with resume({**FOREIGN, **ENTRY}):
        late = agentbus.carry(lambda: agentbus.agent("late").start().end())
    late()
    assert place(seen.span("invoke_agent late")) == derived("agent", "k", trace_id=int(TRACE, 16), remote=True)


# -- links -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("trusted", "conversation"), [(True, "talk"), (False, None)])
def test_by_link_the_conversation_goes_on_but_not_a_strangers(
    seen: Captured, trusted: bool, conversation: str | None
) -> None:
    with resume({**FOREIGN, **ENTRY}, "link", trusted) as resumed:
        assert (resumed, current()) == (None, None)
        with agentbus.agent("a"), agentbus.llm("m"):
            pass
        with agentbus.agent("own", conversation_id="mine"):
            pass
        with agentbus.llm("alone"):
            pass
    with agentbus.agent("after"):
        pass
    said = {event.agent: event.conversation_id for event in seen.events if event.kind == "agent.start"}
    assert said == {"a": conversation, "own": "mine", "after": None}
    asked = [(event.root_invocation_id, event.conversation_id) for event in seen.events if event.kind == "llm.request"]
    assert [told for _, told in asked] == [conversation, conversation]
    assert "r" not in [root for root, _ in asked]
    linked = {span.name: [where(link.context)[:2] for link in span.links] for span in seen.spans}
    here = [(TRACE, SPAN)]
    assert linked == {
        "chat m": [],
        "invoke_agent a": here,
        "invoke_agent own": here,
        "chat alone": here,
        "invoke_agent after": [],
    }


def test_a_call_in_a_resumed_run_has_nothing_of_the_run_around_it(seen: Captured) -> None:
    with agentbus.agent("local", model="local model", provider="p"):
        for carrier in ({}, ENTRY):
            with resume(carrier), agentbus.llm() as call:
                pass
            assert (call.model, call.provider) == (None, None)


# -- carriers that are used again --------------------------------------------------------------------------------------


def test_a_carrier_that_is_sent_again_tells_of_now_only(seen: Captured, web: Any) -> None:
    carrier: dict[str, str] = {}
    with resume({**FOREIGN, **ENTRY, "tracestate": "a=1"}):
        inject(carrier)
    assert sorted(carrier) == ["agentbus", "traceparent", "tracestate"]
    with web.start_as_current_span("sends it again") as span:
        inject(carrier)
    assert carrier == {
        "traceparent": f"00-{span.get_span_context().trace_id:032x}-{span.get_span_context().span_id:016x}-03"
    }
    with agentbus.agent("a", invocation_id="i" * 2000):
        assert "agentbus" not in inject({**ENTRY})


def test_a_tracestate_in_several_headers_is_one() -> None:
    pairs = [
        *((b"traceparent", FOREIGN["traceparent"].encode()), (b"tracestate", b"a=1,b=2")),
        *((b"x", b"y"), (b"TraceState", b"c=3")),
    ]
    assert extract(pairs) == Carried(None, None, FOREIGN["traceparent"], "a=1,b=2,c=3")  # type: ignore[arg-type]


def test_of_several_traceparents_the_first_counts_as_for_the_propagators_of_opentelemetry() -> None:
    pairs = [("traceparent", FOREIGN["traceparent"]), ("traceparent", f"00-{'1' * 32}-{SPAN}-01")]
    assert extract(pairs).traceparent == FOREIGN["traceparent"]  # type: ignore[arg-type]


def test_a_tracestate_is_passed_on_whole(seen: Captured) -> None:
    members = [(f"k{number}", "x" * 10) for number in range(32)]
    state = ",".join(f"{key}={text}" for key, text in members)
    for carrier in ({**FOREIGN, "tracestate": state}, {**FOREIGN, **ENTRY, "tracestate": state}):
        with resume(carrier), agentbus.agent("a") as run, run.llm("m"):
            assert inject()["tracestate"] == state
    assert [span.context.trace_state for span in seen.spans if span.context] == [TraceState(members)] * 4


# -- ways to resume ----------------------------------------------------------------------------------------------------


async def test_functions_and_coroutine_functions_are_decorated(seen: Captured) -> None:
    @resume(ENTRY)
    def plain(name: str) -> str:
        with agentbus.agent(name) as run:
            return run.invocation.root_id

    @resume(ENTRY)
    async def coroutine(name: str) -> str:
        await asyncio.sleep(0)
        return plain.__wrapped__(name)  # type: ignore[attr-defined,no-any-return]

    assert plain("a") == "r"
    assert [await coroutine("b"), await asyncio.create_task(coroutine("c"))] == ["r", "r"]
    assert asyncio.iscoroutinefunction(coroutine)
    assert current() is None
    assert {event.parent_invocation_id for event in seen.events if event.kind == "agent.start"} == {"k"}


def test_generators_are_not_decorated() -> None:
    def generator() -> Iterator[int]:
        yield 1

    async def asynchronous() -> AsyncIterator[int]:
        yield 1

    for function in (generator, asynchronous):
        with pytest.raises(TypeError, match="is a generator: resume inside of it"):
            resume(ENTRY)(function)


def test_one_resumption_may_be_entered_again_inside_itself(seen: Captured) -> None:
    again = resume(ENTRY)
    with again as outer, agentbus.agent("a") as run:
        with again as inner:
            assert inner == outer == current()
        assert current() is run.invocation
    assert current() is None


async def test_after_it_a_late_task_belongs_to_its_run_again(seen: Captured) -> None:
    over = asyncio.Event()

    async def late() -> None:
        await over.wait()
        with resume(ENTRY), agentbus.agent("elsewhere"):
            pass
        with agentbus.agent("late"):
            pass

    with agentbus.agent("planner"):
        task = asyncio.create_task(late())
        await asyncio.sleep(0)
    over.set()
    await task
    called_by = {event.agent: event.parent_invocation_id for event in seen.events if event.kind == "agent.start"}
    assert called_by == {"planner": None, "elsewhere": "k", "late": seen.events[0].invocation_id}


def test_a_carrier_that_telemetry_fails_on_gives_fresh_roots(
    seen: Captured, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> Any:
        raise RuntimeError("broken")

    for name in ("continued", "link"):
        monkeypatch.setattr(seen.bus.tracing, name, fails)
    policies: list[Any] = ["parent", "link"]
    for policy in policies:
        with resume(ENTRY, policy) as resumed, agentbus.agent("a") as run:
            assert resumed is None
            assert run.invocation.is_root
    assert caplog.text.count("A carrier could not be resumed") == 2


def test_what_rehydrates_by_hand_is_below_the_derived_span(seen: Captured, web: Any) -> None:
    with web.start_as_current_span("request"):
        Invocation.rehydrate("k", "r").run(lambda: agentbus.agent("a").start().end())
    assert place(seen.span("invoke_agent a")) == derived("agent", "k", remote=True)
