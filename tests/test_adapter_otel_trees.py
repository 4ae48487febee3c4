"""Spans of other instrumentations and blocks of ours are one tree, in the events and in the spans."""

from __future__ import annotations

import contextvars
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.context import Context, attach, get_current
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision, Sampler, SamplingResult
from opentelemetry.trace import Span, Tracer, set_span_in_context

import otel_agentbus as agentbus
from otel_agentbus import Budget, BudgetExceeded, adapters, testing
from otel_agentbus.adapters import scopes
from otel_agentbus.adapters.otel import SpanEvents
from otel_agentbus.adapters.otel.reading import reading
from otel_agentbus.events import AgentStart, DomainEvent, Event, LlmRequest, LlmResponse, ToolCallStart
from otel_agentbus.recording import read_record, record_of
from otel_agentbus.recovery import replay
from otel_agentbus.telemetry.ids import exported_elsewhere
from otel_agentbus.telemetry.spans import SpanBridge
from otel_agentbus.telemetry.tracer import our_tracer
from otel_agentbus.testing import Captured, draw

from .foreign import Application, id_of
from .journals import SETTINGS, Exporter, Process
from .observing import assert_balanced, ends, starts
from .relaying import Worker, stream_of

CHAT = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-5-mini"}
USED = {"gen_ai.usage.input_tokens": 20, "gen_ai.usage.output_tokens": 5}
OPENINFERENCE = {"openinference.span.kind": "LLM", "llm.provider": "openai", "llm.model_name": "gpt-5-mini"}


@pytest.fixture
def app() -> Application:
    return Application()


@pytest.fixture
def tracer(app: Application) -> Tracer:
    return app.tracer()


@pytest.fixture
def seen() -> Iterator[Captured]:
    with testing.capture() as captured:
        yield captured


def chat(tracer: Tracer) -> None:
    with tracer.start_as_current_span("chat gpt-5-mini", attributes=CHAT) as call:
        call.set_attributes(USED)


def ours(tokens: int = 7) -> None:
    with agentbus.agent("inner") as run, run.llm("gpt-5-mini", provider="openai") as call:
        call.record(input_tokens=tokens, output_tokens=3)


def dangling(*spans: ReadableSpan) -> list[str]:
    """The spans whose parent nobody exports."""
    ids = {(span.context.trace_id, span.context.span_id) for span in spans if span.context is not None}
    return [
        span.name
        for span in spans
        if span.parent is not None and (span.parent.trace_id, span.parent.span_id) not in ids
    ]


def _trace(span: ReadableSpan) -> int:
    return 0 if span.context is None else span.context.trace_id


def roots(seen: Captured) -> set[str | None]:
    return {event.root_invocation_id for event in seen.events}


# -- one tree ----------------------------------------------------------------------------------------------------------


def test_ours_and_theirs_are_one_tree_however_they_are_nested(app: Application, tracer: Tracer, seen: Captured) -> None:
    with agentbus.agent("outer") as outer:
        with tracer.start_as_current_span("invoke_agent planner"):
            chat(tracer)
            with tracer.start_as_current_span("execute_tool research"), app.tracer("web").start_as_current_span("GET"):
                ours()
                with tracer.start_as_current_span("invoke_agent aide"):
                    chat(tracer)
        ours()
    assert app.tree(seen) == (
        "invoke_agent outer\n"
        "├─ invoke_agent planner\n"
        "│  ├─ chat gpt-5-mini\n"
        "│  └─ execute_tool research\n"
        "│     ├─ GET\n"
        "│     │  └─ invoke_agent aide\n"
        "│     │     └─ chat gpt-5-mini\n"
        "│     └─ invoke_agent inner\n"
        "│        └─ chat gpt-5-mini\n"
        "└─ invoke_agent inner\n"
        "   └─ chat gpt-5-mini"
    )
    assert dangling(*app.spans, *seen.spans) == []
    assert roots(seen) == {outer.id}
    paths = [event.attributes["agentbus.invocation.path"] for event in seen.events if isinstance(event, AgentStart)]
    assert paths == [
        "outer",
        "outer/planner",
        "outer/planner/inner",
        "outer/planner/aide",
        "outer/inner",
    ]
    assert_balanced(seen)
    assert seen.span("invoke_agent outer").attributes is not None
    used = {key: value for key, value in (seen.span("invoke_agent outer").attributes or {}).items() if "usage" in key}
    assert used == {
        "agentbus.usage.input_tokens": 54,
        "agentbus.usage.output_tokens": 16,
        "agentbus.usage.cost_usd": pytest.approx(4.55e-05),
        "agentbus.usage.llm_calls": 4,
    }


def test_a_run_of_theirs_at_the_top_is_the_root_of_ours(app: Application, tracer: Tracer, seen: Captured) -> None:
    with app.tracer("server").start_as_current_span("POST /"), tracer.start_as_current_span("invoke_agent boss") as top:
        ours()
        seen.bus.publish("lead", {"score": 1})
    assert app.tree(seen) == (
        "POST /\n└─ invoke_agent boss\n   ├─ invoke_agent inner\n   │  └─ chat gpt-5-mini\n   └─ lead"
    )
    assert dangling(*app.spans, *seen.spans) == []
    (root,) = roots(seen)
    assert root is not None
    assert root.endswith(id_of(top))
    lead = next(event for event in seen.events if isinstance(event, DomainEvent))
    assert lead.invocation_id == root
    assert {event.trace for event in seen.events} == {
        f"00-{top.get_span_context().trace_id:032x}-{app.spans[-1].context.span_id:016x}-03"
    }


def test_a_call_of_theirs_in_no_run_is_a_tree_of_its_own(app: Application, tracer: Tracer, seen: Captured) -> None:
    with tracer.start_as_current_span("chat", attributes=CHAT):
        pass
    with tracer.start_as_current_span("execute_tool x"):
        ours()
    assert [event.invocation_id for event in starts(seen.events)][:2] == [None, None]
    assert len(roots(seen)) == 2
    assert app.tree(seen) == ("chat\nexecute_tool x\n└─ invoke_agent inner\n   └─ chat gpt-5-mini")


def test_a_block_finds_their_run_where_only_the_context_of_opentelemetry_was_carried(
    app: Application, tracer: Tracer, seen: Captured
) -> None:
    with tracer.start_as_current_span("invoke_agent boss"):
        here = get_current()

        def elsewhere() -> None:
            attach(here)
            ours()
            chat(tracer)

        thread = threading.Thread(target=contextvars.Context().run, args=(elsewhere,))
        thread.start()
        thread.join()
    assert app.tree(seen) == ("invoke_agent boss\n├─ invoke_agent inner\n│  └─ chat gpt-5-mini\n└─ chat gpt-5-mini")
    assert len(roots(seen)) == 1


def test_their_span_finds_our_block_where_only_the_context_of_opentelemetry_was_carried(
    app: Application, tracer: Tracer, seen: Captured
) -> None:
    with agentbus.agent("boss") as boss:
        here = get_current()

        def elsewhere() -> None:
            attach(here)
            with app.tracer("somebody").start_as_current_span("step"):
                chat(tracer)

        thread = threading.Thread(target=contextvars.Context().run, args=(elsewhere,))
        thread.start()
        thread.join()
    assert roots(seen) == {boss.id}
    assert app.tree(seen) == "invoke_agent boss\n└─ step\n   └─ chat gpt-5-mini"


def test_their_span_with_a_trace_of_its_own_keeps_it_and_belongs_to_our_run(
    app: Application, tracer: Tracer, seen: Captured
) -> None:
    with agentbus.agent("boss") as boss, tracer.start_as_current_span("invoke_agent apart", context=Context()) as apart:
        ours()
    assert roots(seen) == {boss.id}
    assert draw([span for span in (*app.spans, *seen.spans) if _trace(span) == apart.get_span_context().trace_id]) == (
        "invoke_agent apart\n└─ invoke_agent inner\n   └─ chat gpt-5-mini"
    )
    assert app.tree(seen).startswith("invoke_agent boss\n") or app.tree(seen).endswith("\ninvoke_agent boss")
    assert dangling(*app.spans, *seen.spans) == []


def test_what_begins_after_their_run_has_ended_still_belongs_to_it(
    app: Application, tracer: Tracer, seen: Captured
) -> None:
    with tracer.start_as_current_span("invoke_agent boss"):
        here = get_current()
    before = get_current()
    attach(here)
    ours()
    attach(before)
    assert app.tree(seen) == "invoke_agent boss\n└─ invoke_agent inner\n   └─ chat gpt-5-mini"
    assert len(roots(seen)) == 1


def test_nothing_of_theirs_stays_current_after_a_block_in_it(tracer: Tracer, seen: Captured) -> None:
    with tracer.start_as_current_span("invoke_agent boss"):
        ours()
    assert agentbus.current() is None
    ours()
    assert len(roots(seen)) == 2


def test_a_carrier_takes_their_run_along_and_ours_elsewhere_hangs_under_their_span(
    app: Application, tracer: Tracer, seen: Captured
) -> None:
    with tracer.start_as_current_span("invoke_agent boss"), tracer.start_as_current_span("execute_tool queue"):
        carrier = dict(agentbus.inject())
    attach(Context())
    with agentbus.resume(carrier):
        ours()
    assert app.tree(seen) == (
        "invoke_agent boss\n└─ execute_tool queue\n   └─ invoke_agent inner\n      └─ chat gpt-5-mini"
    )
    assert len(roots(seen)) == 1


def test_where_we_export_nothing_their_spans_hang_under_theirs(app: Application, tracer: Tracer) -> None:
    with agentbus.connect(settings=agentbus.Settings()) as bus:
        told: list[Event] = []
        bus.subscribe(told.append)
        with tracer.start_as_current_span("invoke_agent boss"), agentbus.agent("inner") as inner:
            assert inner.span is None
            chat(tracer)
    assert draw(app.spans) == "invoke_agent boss\n└─ chat gpt-5-mini"
    assert [(event.kind, event.agent) for event in told] == [
        ("agent.start", "boss"),
        ("agent.start", "inner"),
        ("llm.request", "inner"),
        ("llm.response", "inner"),
        ("agent.end", "inner"),
        ("agent.end", "boss"),
    ]
    assert len({event.root_invocation_id for event in told}) == 1


class RecordOnly(Sampler):
    """Records everything and samples nothing."""

    def should_sample(self, parent_context: Any, trace_id: int, name: str, *_: Any, **__: Any) -> SamplingResult:
        return SamplingResult(Decision.RECORD_ONLY)

    def get_description(self) -> str:
        return "record only"


def test_the_decision_about_their_tree_is_the_one_about_ours() -> None:
    app = Application(RecordOnly())
    with testing.capture(sampler=DEFAULT_ON) as seen:
        with app.tracer().start_as_current_span("invoke_agent boss"):
            ours()
        assert seen.spans == ()
        assert seen.bus.summary().total.calls == 1
        assert {str(event.trace)[-5:] for event in seen.events} == {"-02-r"} or {
            str(event.trace)[-5:] for event in seen.events
        } == {"-00-r"}


# -- counted once ------------------------------------------------------------------------------------------------------


def test_a_client_of_a_model_inside_of_a_frameworks_call_is_the_same_call(
    app: Application, tracer: Tracer, seen: Captured
) -> None:
    client = app.tracer("openinference.instrumentation.openai")
    with (
        tracer.start_as_current_span("invoke_agent boss"),
        tracer.start_as_current_span("chat gpt-5-mini", attributes=CHAT) as call,
    ):
        with client.start_as_current_span("ChatCompletion", attributes=OPENINFERENCE) as inner:
            inner.set_attributes({"llm.token_count.prompt": 20, "llm.token_count.completion": 5})
        call.set_attributes(USED)
    total = seen.bus.summary().total
    assert (total.calls, total.input, total.output, total.duplicates) == (1, 20, 5, 1)
    assert sum(seen.metric("agentbus.llm.calls").values()) == 1


def test_a_client_of_a_model_inside_of_our_block_is_the_same_call(app: Application, seen: Captured) -> None:
    client = app.tracer("openinference.instrumentation.openai")
    with agentbus.agent("a") as run, run.llm("gpt-5-mini", provider="openai") as call:
        with client.start_as_current_span("ChatCompletion", attributes=OPENINFERENCE) as inner:
            inner.set_attributes({"llm.token_count.prompt": 20, "llm.token_count.completion": 5})
        call.record(input_tokens=20, output_tokens=5)
    total = seen.bus.summary().total
    assert (total.calls, total.input, total.output, total.duplicates) == (1, 20, 5, 1)


def test_scopes_of_a_framework_whose_adapter_is_on_are_silent_from_their_start_to_their_end(
    app: Application, seen: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    native, client = app.tracer("strands.telemetry.tracer"), app.tracer("openinference.instrumentation.openai")
    monkeypatch.setattr(adapters, "active", lambda: {"strands": None})
    silent = reading.counts["silent"]
    with native.start_as_current_span("invoke_agent boss") as span:
        with agentbus.agent("boss") as run, run.llm("gpt-5-mini", provider="openai") as call:
            with native.start_as_current_span("chat") as chat_span:
                with client.start_as_current_span("ChatCompletion", attributes=OPENINFERENCE) as inner:
                    inner.set_attributes({"llm.token_count.prompt": 20, "llm.token_count.completion": 5})
                chat_span.set_attributes({**CHAT, **USED})
            call.record(input_tokens=20, output_tokens=5)
        monkeypatch.setattr(adapters, "active", dict)
        span.set_attributes({"gen_ai.operation.name": "invoke_agent", **USED})
    assert [(event.kind, event.parent_call_id is None) for event in seen.events] == [
        ("agent.start", True),
        ("llm.request", True),
        ("llm.request", False),
        ("llm.response", False),
        ("llm.response", True),
        ("agent.end", True),
    ]
    assert reading.counts["silent"] - silent == 2
    assert seen.bus.summary().total.calls == 1


def test_our_own_spans_are_never_read(app: Application, seen: Captured) -> None:
    for scope in (scopes.OURS, "somebody"):
        with app.tracer(scope).start_as_current_span("invoke_agent x", attributes={"gen_ai.operation.name": "chat"}):
            pass
    with our_tracer(app.provider).start_as_current_span("x") as late:
        late.set_attributes({"gen_ai.operation.name": "chat"})
    assert [event.attributes["otel.scope.name"] for event in seen.events] == ["somebody", "somebody"]


def test_a_span_that_two_processors_hand_over_is_read_once(app: Application, tracer: Tracer, seen: Captured) -> None:
    app.provider.add_span_processor(SpanEvents())
    with tracer.start_as_current_span("invoke_agent boss"):
        chat(tracer)
        with tracer.start_as_current_span("late") as late:
            late.set_attributes({**CHAT, **USED})
    assert [event.kind for event in seen.events] == [
        "agent.start",
        "llm.request",
        "llm.response",
        "llm.request",
        "llm.response",
        "agent.end",
    ]


def test_switched_off_it_reads_what_has_begun_to_its_end_and_nothing_new(
    app: Application, tracer: Tracer, seen: Captured
) -> None:
    with tracer.start_as_current_span("invoke_agent boss"):
        app.processor.on = False
        chat(tracer)
    chat(tracer)
    with tracer.start_as_current_span("late") as late:
        late.set_attributes(CHAT)
    assert [event.kind for event in seen.events] == ["agent.start", "llm.request", "llm.response", "agent.end"]
    app.processor.on = True
    chat(tracer)
    assert len(seen.events) == 6


def test_a_budget_for_their_tree_stops_ours_in_it(tracer: Tracer) -> None:
    budget = Budget("tree", tokens=24, on_exceeded="raise")
    with testing.capture(budgets=[budget]), tracer.start_as_current_span("invoke_agent boss"):
        chat(tracer)
        with pytest.raises(BudgetExceeded):
            ours()
        chat(tracer)  # theirs nobody stops


# -- told again --------------------------------------------------------------------------------------------------------


def recorded(app: Application, seen: Captured) -> list[Event]:
    """The events of a tree of theirs and ours, as a journal has them."""
    tracer = app.tracer()
    with tracer.start_as_current_span("invoke_agent boss"):
        chat(tracer)
        with tracer.start_as_current_span("execute_tool t"):
            ours()
    seen.bus.flush()
    return [read_record(record_of(event))[0] for event in seen.events]


def test_a_journal_that_is_sent_again_has_our_spans_and_none_of_theirs(
    app: Application, seen: Captured, tmp_path: Path
) -> None:
    told = recorded(app, seen)
    process = Process(tmp_path).tell(*told)
    process.finish()
    exporter = Exporter()
    found = replay(tmp_path, settings=SETTINGS, exporters=[exporter])
    assert sorted(span.name for span in exporter.spans) == ["chat gpt-5-mini", "invoke_agent inner"]
    assert found.interrupted == 0
    assert dangling(*app.spans, *exporter.spans) == []


def test_a_process_that_is_killed_in_a_tree_of_theirs_leaves_ours_to_be_recovered(
    app: Application, seen: Captured, tmp_path: Path
) -> None:
    told = recorded(app, seen)
    Process(tmp_path).tell(*[event for event in told if event.kind != "agent.end"]).die()
    exporter = Exporter()
    found = replay(tmp_path, settings=SETTINGS, exporters=[exporter])
    assert sorted(span.name for span in exporter.spans) == ["chat gpt-5-mini", "invoke_agent inner"]
    assert found.interrupted == 1


def test_a_relay_makes_our_spans_and_none_of_theirs(app: Application, seen: Captured) -> None:
    told = recorded(app, seen)
    for number, event in enumerate(told):
        event.source, event.seq = "s", number
    worker = Worker(stream_of(told)).all()
    assert sorted(span.name for span in worker.sent) == ["chat gpt-5-mini", "invoke_agent inner"]
    assert dangling(*app.spans, *worker.sent) == []


def test_the_receipt_counts_their_spans_apart(app: Application, seen: Captured) -> None:
    recorded(app, seen)
    with app.tracer().start_as_current_span("invoke_agent open"):
        seen.bus.flush()
        health = seen.bus.health()
        assert health["balance"] == {"events": 0, "spans": 0, "deliveries": 0, "broker": 0}
        assert {key: health["spans"][key] for key in ("begun", "open", "ended")} == {"begun": 2, "open": 0, "ended": 2}


def test_a_run_of_theirs_that_never_ends_is_no_interrupted_span_of_ours(app: Application) -> None:
    bridge = SpanBridge(app.provider)
    lineage: dict[str, Any] = {
        "invocation_id": "x@span:00f067aa0ba902b7",
        "root_invocation_id": "x@span:00f067aa0ba902b7",
    }
    bridge(AgentStart(time_ns=1, source="s", seq=0, agent="boss", **lineage))
    assert (bridge.health()["open"], bridge.health()["elsewhere"], bridge.open_spans) == (0, 1, 1)
    bridge.close()
    assert (bridge.health()["interrupted"], bridge.health()["ended"], bridge.open_spans) == (0, 0, 0)
    assert app.spans == ()


@pytest.mark.parametrize(
    ("id", "span"),
    [
        ("x@span:00f067aa0ba902b7", 0x00F067AA0BA902B7),
        ("@span:ffffffffffffffff", 2**64 - 1),
        ("x@span:0000000000000000", 0),
        ("x@span:00f067aa0ba902b", 0),
        ("x@span:00f067aa0ba902bz", 0),
        ("x@span: 0f067aa0ba902b7", 0),
        ("x@span:+0f067aa0ba902b7", 0),
        ("00f067aa0ba902b7", 0),
        ("", 0),
    ],
)
def test_an_id_names_the_span_that_somebody_else_exports(id: str, span: int) -> None:
    assert exported_elsewhere(id) == span


# -- any tree, any order -----------------------------------------------------------------------------------------------

Step = tuple[int, int, int]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40), st.integers(0, 40)), max_size=40), st.booleans())
def test_any_tree_in_any_order_gives_each_start_one_end_and_whole_sums(steps: list[Step], late: bool) -> None:
    reading.table.forget()  # the ids of spans are random, and hypothesis has each example begin with the same ones
    app = Application()
    tracer = app.tracer("strands.telemetry.tracer")
    open_: list[tuple[Span, dict[str, Any]]] = []
    numbers = itertools.count()
    expected = {"agent": 0, "llm": 0, "tool": 0, "tokens": 0}

    def begin(kind: int, under: int) -> None:
        parents = [span for span, said in open_ if said.get("gen_ai.operation.name") != "chat"]
        parent = parents[under % (len(parents) + 1) - 1] if parents and under % (len(parents) + 1) else None
        name, said, counted = _KINDS[kind % len(_KINDS)]
        name = f"{name} {next(numbers)}" if counted in ("agent", "tool") else name  # one name is one call, see above
        context = Context() if parent is None else set_span_in_context(parent, Context())
        span = tracer.start_span(name, context, attributes=None if late else said)
        open_.append((span, dict(said)))
        if counted:
            expected[counted] += 1
        expected["tokens"] += said.get("gen_ai.usage.input_tokens", 0) if counted == "llm" else 0

    def end(which: int) -> None:
        span, said = open_.pop(which % len(open_))
        span.set_attributes(said)
        span.end()

    with testing.capture() as seen:
        for what, one, other in steps:
            if what < 4 or not open_:
                begin(one, other)
            else:
                end(one)
        while open_:
            end(0)
        assert_balanced(seen)
        told = starts(seen.events)
        assert len(reading.table) == 0
        assert {
            "agent": sum(isinstance(event, AgentStart) for event in told),
            "llm": sum(isinstance(event, LlmRequest) for event in told),
            "tool": sum(isinstance(event, ToolCallStart) for event in told),
            "tokens": sum(event.input_tokens or 0 for event in seen.events if isinstance(event, LlmResponse)),
        } == expected
        assert all((event.time_ns or 0) > 0 for event in (*told, *ends(seen.events)))
        total = seen.bus.summary().total
        assert (total.calls, total.input, total.duplicates) == (expected["llm"], expected["tokens"], 0)
        assert seen.spans == ()
        runs = {event.invocation_id for event in told if isinstance(event, AgentStart)}
        assert {event.invocation_id for event in told} - {None} <= runs
        assert {event.parent_invocation_id for event in told} - {None} <= runs


def test_many_threads_at_once_leave_nothing_open_and_nothing_uncounted(app: Application, seen: Captured) -> None:
    begin = threading.Barrier(8)

    def work(number: int) -> None:
        tracer = app.tracer("strands.telemetry.tracer")
        begin.wait()
        for turn in range(10):
            with tracer.start_as_current_span(f"invoke_agent a{number}-{turn}"):
                chat(tracer)
                with tracer.start_as_current_span("execute_tool t"):
                    ours()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_balanced(seen)
    assert len(reading.table) == 0
    total = seen.bus.summary().total
    assert (total.calls, total.input, total.output) == (160, 80 * 27, 80 * 8)
    assert len(roots(seen)) == 80
    assert dangling(*app.spans, *seen.spans) == []


_KINDS: list[tuple[str, dict[str, Any], str]] = [
    ("invoke_agent", {"gen_ai.operation.name": "invoke_agent", "gen_ai.usage.input_tokens": 1000}, "agent"),
    ("execute_tool", {"gen_ai.operation.name": "execute_tool"}, "tool"),
    ("chat", {**CHAT, "gen_ai.usage.input_tokens": 7, "gen_ai.usage.output_tokens": 1}, "llm"),
    ("execute_event_loop_cycle", {"gen_ai.operation.name": "cycle", "gen_ai.usage.input_tokens": 500}, ""),
    ("GET /", {"http.request.method": "GET"}, ""),
]
