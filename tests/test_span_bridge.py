"""The bridge as a whole: bounds, gaps, foreign processors, threads, what user code said, and the ways to end."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from otel_agentbus import Router, SpanBridge, agent, llm, testing, tool
from otel_agentbus.events import (
    AgentEnd,
    AgentStart,
    CacheHit,
    ChannelMessage,
    DeploymentFailed,
    DeploymentStarted,
    DomainEvent,
    Error,
    Event,
    HeartbeatTick,
    LlmRequest,
    LlmResponse,
    RecoveryCompleted,
    ToolCall,
    ToolCallStart,
    TurnComplete,
)
from otel_agentbus.telemetry.ordering import SOURCES

from .bridging import Bridged, Emitter, at, bridged

RUN: dict[str, Any] = {"invocation_id": "r", "root_invocation_id": "r", "agent": "a"}
MODEL: dict[str, Any] = {"model_provider": "openai", "model": "m"}


def plain_run(emit: Emitter, run_id: str = "r", begin: float = 0.0) -> None:
    run = {"invocation_id": run_id, "agent": "a"}
    emit(AgentStart, begin, **run)
    emit(LlmRequest, begin + 1, **run, **MODEL, messages_count=1, call_id=f"{run_id}-1")
    emit(LlmResponse, begin + 2, **run, **MODEL, call_id=f"{run_id}-1", duration=1.0, success=True)
    emit(AgentEnd, begin + 3, **run, duration=3.0)


PLAIN = [("invoke_agent a", None, 0, 3, "ok"), ("chat m", "invoke_agent a", 1, 2, "ok")]


# Bounds


def test_evicted_runs_end_once_and_are_counted() -> None:
    emit = Emitter()
    for number in range(300):
        emit(AgentStart, number, invocation_id=f"r{number}", agent="a")
    for number in range(300):
        emit(AgentEnd, 300 + number, invocation_id=f"r{number}", agent="a", duration=300.0)
    seen = bridged(max_open_spans=200).feed(emit.events)
    health = seen.bridge.health()
    spans = seen.closed()
    assert len(spans) == len({span.context.span_id for span in spans if span.context}) == 300
    outcomes = Counter((span.attributes or {})["agentbus.outcome"] for span in spans)
    assert health["interrupted"] == health["duplicate"] == outcomes["interrupted"] >= 100
    assert outcomes["ok"] == 300 - outcomes["interrupted"]
    assert health["open"] == 0


def test_eviction_takes_the_longest_idle_run_of_all_sources() -> None:
    sources = [Emitter(f"s{number}") for number in range(3)]
    bridge = bridged(max_open_spans=3)
    for number, emit in enumerate([sources[1], sources[0], sources[2], sources[0]]):
        emit(AgentStart, number, invocation_id=f"r{number}", agent=f"a{number}")
        bridge.bridge(emit.events[-1])
    assert [span.name for span in bridge.exporter.get_finished_spans()] == ["invoke_agent a0"]


def test_eviction_loses_no_end_that_waits_for_its_start() -> None:
    """What waits is judged, not thrown away: its start may be lost, its duration is not."""
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    emit(ToolCall, 1, **RUN, tool="t", tool_call_id="x", duration=0.5, success=True)
    for number in range(10):
        emit(AgentStart, 1.001, invocation_id=f"r{number}", agent="b")
    seen = bridged(max_open_spans=10).feed(emit.events)
    assert sorted(span.name for span in seen.exporter.get_finished_spans()) == ["execute_tool t", "invoke_agent a"]


def test_a_run_in_which_something_only_waits_does_not_stand_in_for_an_open_one() -> None:
    emit = Emitter()
    emit(ToolCall, 0, invocation_id="w", tool="t", tool_call_id="x", duration=0.5, success=True)
    for number in range(4):
        emit(AgentStart, 1, invocation_id=f"r{number}", agent="b")
    assert bridged(max_open_spans=3).feed(emit.events).bridge.open_spans == 3


def test_the_table_of_runs_does_not_grow_with_a_processor_that_always_fails() -> None:
    class Failing(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            raise RuntimeError("no room")

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Failing())
    bridge = SpanBridge(provider, max_open_spans=10)
    emit = Emitter()
    for number in range(50):
        plain_run(emit, f"r{number}", number * 10)
    for event in emit.events:
        bridge(event)
    assert bridge.open_spans == 0
    assert bridge.health()["failed"] == 100
    (source,) = bridge._sources.values()
    assert len(source._table.active) == 0


def test_machines_of_sources_that_are_gone_are_forgotten() -> None:
    seen = bridged()
    for number in range(SOURCES + 50):
        emit = Emitter(f"s{number}")
        emit(AgentStart, number, invocation_id=f"r{number}", agent="a")
        if number != 3:
            emit(AgentEnd, number + 0.5, invocation_id=f"r{number}", agent="a", duration=0.5)
        seen.feed(emit.events)
    assert len(seen.bridge._sources) <= SOURCES
    assert seen.bridge.open_spans == 1  # the run that is still open is nobody's to forget
    assert len(seen.exporter.get_finished_spans()) == SOURCES + 49


def test_a_bridge_that_is_given_up_is_freed() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    bridge = SpanBridge(provider)
    plain_run(emit := Emitter())
    for event in emit.events:
        bridge(event)
    gone = weakref.ref(bridge)
    del bridge
    gc.collect()
    assert gone() is None


# Gaps and doubles


def test_what_waits_behind_a_gap_is_applied_by_a_flush_and_nothing_is_judged() -> None:
    plain_run(emit := Emitter())
    seen = bridged().feed([emit.events[0], *emit.events[2:3]])
    assert seen.bridge.health() == {
        "duplicate": 0,
        "skipped": 0,
        "held": 1,
        "unknown": 0,
        "failed": 0,
        "interrupted": 0,
        "open": 1,
        "elsewhere": 0,
        "begun": 1,
        "ended": 0,
        "unsampled": 0,
    }
    seen.bridge.flush()
    assert seen.bridge.health()["skipped"] == 1
    assert seen.exporter.get_finished_spans() == ()  # the answer waits for its request
    assert seen.closed()
    assert [span.name for span in seen.exporter.get_finished_spans()] == ["chat m", "invoke_agent a"]


def test_what_waits_behind_a_gap_is_applied_at_the_close() -> None:
    plain_run(emit := Emitter())
    assert bridged().feed(emit.events[:1] + emit.events[2:]).rows() == PLAIN


def test_a_gap_is_given_up_when_time_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0]
    monkeypatch.setattr("otel_agentbus.telemetry.spans.time.monotonic_ns", lambda: now[0])
    plain_run(emit := Emitter())
    seen = bridged().feed(emit.events[1:])
    assert seen.exporter.get_finished_spans() == ()
    now[0] = 900_000_000
    seen.bridge.tick(at(3))
    assert seen.exporter.get_finished_spans() == ()
    now[0] = 1_001_000_000
    seen.bridge.tick(at(3))
    assert [span.name for span in seen.exporter.get_finished_spans()] == ["chat m"]
    seen.bridge.tick(at(6))
    assert [span.name for span in seen.exporter.get_finished_spans()] == ["chat m", "invoke_agent a"]
    assert seen.bridge.health()["skipped"] == 1


def test_one_event_too_late_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0]
    monkeypatch.setattr("otel_agentbus.telemetry.spans.time.monotonic_ns", lambda: now[0])
    plain_run(emit := Emitter())
    plain_run(emit, "s", 10)
    seen = bridged().feed(emit.events[1:3])
    now[0] = 1_200_000_000
    seen.feed(emit.events[3:])  # the next event finds the gap too old
    assert seen.bridge.health()["held"] == 0
    seen.feed(emit.events[:1])
    assert seen.bridge.health()["duplicate"] == 1


def test_duplicates_below_the_watermark_change_nothing() -> None:
    plain_run(emit := Emitter())
    seen = bridged().feed(emit.events).feed(emit.events).feed(reversed(emit.events))
    assert seen.bridge.health()["duplicate"] == 8
    assert seen.rows() == PLAIN


def test_events_without_source_and_number_are_applied_as_they_come() -> None:
    plain_run(emit := Emitter())
    for event in emit.events:
        event.source = event.seq = None
    seen = bridged().feed(emit.events)
    assert seen.bridge.health()["duplicate"] == 0
    assert seen.rows() == PLAIN


def test_calls_without_source_number_or_ids_are_each_their_own() -> None:
    events = [ToolCall(tool="t", duration=0.5, success=True, time_ns=at(number)) for number in range(5)]
    spans = bridged().feed(events).closed()
    assert len({span.context.trace_id for span in spans if span.context}) == 5


# The machine at its edges


def test_a_tree_that_is_interrupted_ends_when_it_was_last_heard_of_and_the_others_go_on() -> None:
    emit, other, found = Emitter(), Emitter("other"), bridged()
    for name in ("r1", "r2"):
        found.feed([emit(AgentStart, 0, invocation_id=name, root_invocation_id=name, agent=name)])
    below: dict[str, Any] = {"root_invocation_id": "r1", "invocation_id": "r1/a", "parent_invocation_id": "r1"}
    found.feed(
        [emit(AgentStart, 1, agent="below", **below), emit(ToolCallStart, 2, tool="t", tool_call_id="t1", **below)]
    )
    elsewhere: dict[str, Any] = {**below, "invocation_id": "r1/b"}
    found.feed([other(AgentStart, 3, agent="elsewhere", **elsewhere)])
    assert (found.bridge.interrupt("r1"), found.bridge.interrupt("r1"), found.bridge.interrupt("none")) == (4, 0, 0)
    assert found.bridge.open_spans == 1
    found.feed([emit(AgentEnd, 9, agent="r2", invocation_id="r2", root_invocation_id="r2")])
    assert found.rows() == [
        ("invoke_agent r1", None, 0.0, 2.0, "interrupted"),
        ("invoke_agent r2", None, 0.0, 9.0, "ok"),
        ("invoke_agent below", "invoke_agent r1", 1.0, 2.0, "interrupted"),
        ("execute_tool t", "invoke_agent below", 2.0, 2.0, "interrupted"),
        ("invoke_agent elsewhere", "invoke_agent r1", 3.0, 3.0, "interrupted"),
    ]
    assert found.bridge.health()["interrupted"] == 4


def test_a_second_attempt_interrupts_the_first_one() -> None:
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    emit(LlmRequest, 1, **RUN, **MODEL, messages_count=1, call_id="c")
    emit(AgentStart, 2, **RUN, attempt=2)
    emit(LlmRequest, 3, **RUN, **MODEL, messages_count=1, call_id="c", attempt=2)
    emit(LlmResponse, 4, **RUN, **MODEL, call_id="c", duration=1.0, success=True, attempt=2)
    emit(AgentEnd, 5, **RUN, duration=3.0, attempt=2)
    seen = bridged().feed(emit.events)
    assert seen.rows() == [
        ("invoke_agent a", None, 0, 2, "interrupted"),
        ("chat m", "invoke_agent a", 1, 2, "interrupted"),
        ("invoke_agent a", None, 2, 5, "ok"),
        ("chat m", "invoke_agent a", 3, 4, "ok"),
    ]
    parents = {span.context.span_id: span.parent for span in seen.exporter.get_finished_spans() if span.context}
    assert len(parents) == 4
    assert len({parent.span_id for parent in parents.values() if parent}) == 2


def test_events_of_an_unknown_class_or_without_sense_never_raise() -> None:
    class Strange(Event):
        pass

    emit = Emitter()
    plain_run(emit)
    garbage: list[Any] = [
        Strange(time_ns=1, source="s", seq=4),
        AgentStart(source="s", seq="five"),  # type: ignore[arg-type]  # a producer's mistake
        AgentStart(source=["s"], seq=5),  # type: ignore[arg-type]  # a producer's mistake
        AgentStart(time_ns="now", source="t", seq=0),  # type: ignore[arg-type]  # a producer's mistake
        AgentStart(invocation_id=["r"], source="t", seq=1),  # type: ignore[arg-type]  # a producer's mistake
        LlmResponse(model_provider=None, model=None, duration="long", success=None, source="t", seq=2),  # type: ignore[arg-type]  # a producer's mistake
        AgentStart(invocation_id="\ud800", agent="\ud800", source="t", seq=3),
        AgentEnd(invocation_id="\ud800", agent="\ud800", source="t", seq=4, attributes={"k": "\ud800"}),
        AgentStart(invocation_id="x", attributes=None, source="t", seq=5),  # type: ignore[arg-type]  # a producer's mistake
        AgentEnd(invocation_id="x", attributes={"agentbus.span": {"events": 7, "links": "x", "status": 3}}),
        AgentStart(invocation_id="y", trace=7, source="t", seq=6),  # type: ignore[arg-type]  # a producer's mistake
        AgentStart(invocation_id="z", tracestate="=,=,;", trace=f"00-{1:032x}-{2:016x}-01", source="t", seq=7),
        None,
        "event",
    ]
    seen = bridged()
    for event in garbage:
        seen.bridge(event)
    plain_run(other := Emitter("other"))
    seen.feed(emit.events).feed(other.events)
    names = Counter(span.name for span in seen.closed())
    assert names["chat m"] >= 1
    assert seen.bridge.health()["failed"] >= 5


def test_a_moment_before_its_span_is_added_when_the_span_comes() -> None:
    emit = Emitter()
    emit(DomainEvent, 1, **RUN, name="early", parent_call_id="x")
    emit(ToolCallStart, 0, **RUN, tool="t", tool_call_id="x")
    emit(ToolCall, 2, **RUN, tool="t", tool_call_id="x", duration=2.0, success=True)
    (span,) = bridged().feed(emit.events).closed()
    assert [(event.name, event.timestamp) for event in span.events] == [("early", at(1))]


def test_every_kind_of_moment_stands_on_the_span_that_it_names() -> None:
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    emit(ToolCallStart, 1, **RUN, tool="t", tool_call_id="x")
    within = {**RUN, "parent_call_id": "x"}
    emit(TurnComplete, 2, **within)
    emit(ChannelMessage, 3, **{**within, "channel": "telegram"}, direction="inbound")
    emit(CacheHit, 4, **within, cache_type="prompt", tokens_saved=1)
    emit(Error, 5, **within, component="c", message="boom")
    emit(DomainEvent, 6, **within, name="lead")
    emit(HeartbeatTick, 7, **within)
    emit(ToolCall, 8, **RUN, tool="t", tool_call_id="x", duration=7.0, success=True)
    emit(AgentEnd, 9, **RUN, duration=9.0)
    tool_span, agent_span = bridged().feed(emit.events).closed()
    assert [event.timestamp for event in tool_span.events] == [at(2), at(3), at(4), at(5), at(6)]
    assert agent_span.events == ()
    assert tool_span.status.status_code is StatusCode.UNSET  # an error event of a component is not the call's failure


RUN_IDS = st.sampled_from([None, "a", "b", "c"])
CALL_IDS = st.sampled_from([None, "1", "2"])
LINEAGE: dict[str, st.SearchStrategy[Any]] = {
    "invocation_id": RUN_IDS,
    "parent_invocation_id": RUN_IDS,
    "root_invocation_id": st.sampled_from([None, "a"]),
    "parent_call_id": st.sampled_from([None, None, "1", "llm:1", "llm:2"]),
    "attempt": st.sampled_from([1, 1, 2]),
}
OUTCOMES = st.sampled_from([None, "ok", "error", "cancelled", "interrupted"])
SAID: list[tuple[type[Event], dict[str, Any]]] = [
    (AgentStart, {}),
    (AgentEnd, {"duration": st.sampled_from([None, 1.0]), "outcome": OUTCOMES}),
    (LlmRequest, {"messages_count": st.just(1), "call_id": CALL_IDS}),
    (LlmResponse, {"duration": st.just(0.5), "success": st.booleans(), "call_id": CALL_IDS, "outcome": OUTCOMES}),
    (ToolCallStart, {"tool": st.sampled_from("tu"), "tool_call_id": CALL_IDS}),
    (
        ToolCall,
        {"tool": st.sampled_from("tu"), "tool_call_id": CALL_IDS, "duration": st.just(0.5), "success": st.booleans()},
    ),
    (TurnComplete, {}),
    (Error, {"component": st.just("c"), "message": st.just("m")}),
    (DomainEvent, {"name": st.just("n")}),
    (HeartbeatTick, {}),
    (DeploymentStarted, {"deploy_id": st.sampled_from("xy")}),
    (DeploymentFailed, {"deploy_id": st.sampled_from("xy"), "reason": st.just("r")}),
    (RecoveryCompleted, {"deploy_id": st.sampled_from("xy")}),
]


@st.composite
def nonsense(draw: st.DrawFn) -> list[Event]:
    """Whatever one source might tell, in whatever order, of a few runs and calls."""
    emit = Emitter()
    seconds = 0.0
    for _ in range(draw(st.integers(0, 40))):
        cls, own = draw(st.sampled_from(SAID))
        model = MODEL if cls in (LlmRequest, LlmResponse) else {}
        seconds += draw(st.sampled_from([0.1, 0.1, 1.0, 5.0]))
        emit(cls, seconds, **model, **{name: draw(values) for name, values in {**LINEAGE, **own}.items()})
    return emit.events


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(nonsense(), st.sampled_from([3, 1000]))
def test_whatever_is_told_nothing_fails_nothing_stays_open_and_no_id_comes_twice(
    events: list[Event], bound: int
) -> None:
    seen = bridged(max_open_spans=bound).feed(events)
    assert seen.bridge.open_spans <= bound
    sources = list(seen.bridge._sources.values())
    spans = seen.closed()
    assert (seen.bridge.health()["failed"], seen.bridge.health()["open"]) == (0, 0)
    assert len({span.context.span_id for span in spans if span.context}) == len(spans)
    assert [len(source._table.active) for source in sources] == [0] * len(sources)
    for span in spans:
        assert (span.status.status_code is StatusCode.ERROR) == ("error.type" in (span.attributes or {}))
        assert (span.end_time or 0) >= (span.start_time or 0)


def test_a_run_that_names_its_root_only_is_the_root() -> None:
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    emit(AgentEnd, 1, root_invocation_id="r", duration=1.0)
    assert bridged().feed(emit.events).rows() == [("invoke_agent a", None, 0, 1, "ok")]


# Foreign span processors


class Recording(SpanProcessor):
    """A processor that sees, and then does what it is told to."""

    def __init__(self, on: str, then: Callable[[], object]) -> None:
        self.on, self.then = on, then
        self.started: list[str] = []
        self.ended: list[str] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self.started.append(span.name)
        if self.on == "start":
            self.then()

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span.name)
        if self.on == "end":
            self.then()


def with_processor(first: SpanProcessor, **options: Any) -> Bridged:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    provider.add_span_processor(first)
    return Bridged(SpanBridge(provider, **options), exporter)


def boom() -> None:
    raise RuntimeError("a processor's own trouble")


def test_a_processor_that_raises_in_on_end_costs_nothing_but_its_own() -> None:
    processor = Recording("end", boom)
    plain_run(emit := Emitter())
    seen = with_processor(processor).feed(emit.events)
    assert seen.rows() == PLAIN
    assert processor.ended == ["chat m", "invoke_agent a"]
    assert seen.bridge.health()["failed"] == 2


def test_a_processor_that_raises_in_on_start_costs_its_span_and_no_other() -> None:
    first = iter([True])

    def fail_once() -> None:
        if next(first, False):
            boom()

    emit = Emitter()
    plain_run(emit)
    plain_run(emit, "s", 10)
    seen = with_processor(Recording("start", fail_once)).feed(emit.events)
    assert seen.rows() == [
        ("chat m", "?", 1, 2, "ok"),
        ("invoke_agent a", None, 10, 13, "ok"),
        ("chat m", "invoke_agent a", 11, 12, "ok"),
    ]
    assert seen.bridge.health()["failed"] == 1
    assert seen.bridge.open_spans == 0


def test_a_judgement_that_fails_does_not_cost_the_event_that_brought_the_time() -> None:
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    for call in "xyz":
        emit(ToolCallStart, 1, **RUN, tool="t", tool_call_id=call)
    emit(AgentEnd, 2, **RUN, duration=2.0)
    plain_run(emit, "late", 100)
    seen = with_processor(Recording("end", boom)).feed(emit.events)
    names = Counter(span.name for span in seen.exporter.get_finished_spans())
    assert names == {"invoke_agent a": 2, "execute_tool t": 3, "chat m": 1}


def test_a_processor_may_emit_into_the_bridge_that_it_serves() -> None:
    seen: list[Bridged] = []
    emit = Emitter("inner")

    def emit_again() -> None:
        if len(emit.events) < 5:
            number = len(emit.events)
            seen[0].bridge(emit(DomainEvent, number, name=f"inner{number}"))

    seen.append(with_processor(Recording("end", emit_again)))
    plain_run(outer := Emitter())
    seen[0].feed(outer.events)
    names = [row[0] for row in seen[0].rows()]
    assert sorted(names) == ["chat m", *[f"inner{number}" for number in range(5)], "invoke_agent a"]


# As a plain handler


def test_the_bridge_is_a_plain_handler_that_eight_threads_may_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("otel_agentbus.telemetry.spans.time.monotonic_ns", lambda: 0)  # however slow this machine is
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    bridge = SpanBridge(provider)
    router = Router()
    router.subscribe(bridge)
    events: list[Event] = []
    for number in range(8):
        emit = Emitter(f"s{number}")
        for run in range(40):
            plain_run(emit, f"s{number}-{run}", run * 10)
        events += emit.events
    random.Random(1).shuffle(events)
    shares = [events[number::8] for number in range(8)]
    barrier = threading.Barrier(8)

    def emit_all(share: list[Event]) -> None:
        barrier.wait()
        for event in share:
            router.emit(event)

    threads = [threading.Thread(target=emit_all, args=(share,)) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    bridge.close()
    spans = exporter.get_finished_spans()
    assert router.failures == 0
    assert bridge.health()["failed"] == bridge.health()["duplicate"] == 0
    assert len({span.context.span_id for span in spans if span.context}) == len(spans) == 8 * 40 * 2
    assert {(span.attributes or {})["agentbus.outcome"] for span in spans} == {"ok"}


def test_closing_twice_is_closing_once_and_the_bridge_goes_on_after_it() -> None:
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    seen = bridged().feed(emit.events)
    seen.bridge.close()
    seen.bridge.close()
    assert [row[4] for row in seen.rows()] == ["interrupted"]
    seen.exporter.clear()
    plain_run(emit, "next", 10)
    assert [row[:2] for row in seen.feed(emit.events[1:]).rows()] == [
        ("invoke_agent a", None),
        ("chat m", "invoke_agent a"),
    ]


def test_a_flush_or_close_of_an_untouched_bridge_is_nothing() -> None:
    bridge = bridged().bridge
    bridge.tick()
    bridge.flush()
    bridge.close()
    assert set(bridge.health().values()) == {0}


# Content, statuses, events


def content_of(capture: str) -> tuple[set[str], list[str]]:
    """The attribute and the event names of a model call's span that hold content."""
    with (
        testing.capture(capture_content=capture) as seen,
        agent("a"),
        llm("m", messages=[{"role": "user", "content": "hello"}]) as call,
    ):
        call.record(messages=[{"role": "assistant", "content": "goodbye"}])
    span = seen.span("chat m")
    said = {key for key, value in (span.attributes or {}).items() if "hello" in str(value) or "goodbye" in str(value)}
    events = [event.name for event in span.events if "goodbye" in str(dict(event.attributes or {}))]
    return said, events


def test_content_stands_where_the_capture_mode_says() -> None:
    on_span = {"gen_ai.input.messages", "gen_ai.output.messages"}
    details = ["gen_ai.client.inference.operation.details"]
    assert {mode: content_of(mode) for mode in ("NO_CONTENT", "SPAN_ONLY", "EVENT_ONLY", "SPAN_AND_EVENT")} == {
        "NO_CONTENT": (set(), []),
        "SPAN_ONLY": (on_span, []),
        "EVENT_ONLY": (set(), details),
        "SPAN_AND_EVENT": (on_span, details),
    }


@pytest.mark.parametrize("kind", ["agent", "llm", "tool"])
def test_user_code_may_set_the_status_of_the_current_span(kind: str) -> None:
    blocks: dict[str, Callable[[str], Any]] = {"agent": agent, "llm": llm, "tool": tool}

    def block() -> Any:
        return blocks[kind]("a")

    with testing.capture() as seen:
        with block():
            trace.get_current_span().set_status(StatusCode.OK)
        with block():
            trace.get_current_span().set_status(StatusCode.ERROR, "it went wrong")
        with block():
            trace.get_current_span().set_status(StatusCode.OK)
            trace.get_current_span().set_status(StatusCode.ERROR, "OK is final")
        with pytest.raises(ValueError, match="boom"), block():
            raise ValueError("boom")
        with block():
            pass
    found = [
        (span.status.status_code, span.status.description, (span.attributes or {}).get("error.type"))
        for span in seen.spans
    ]
    assert found == [
        (StatusCode.OK, None, None),
        (StatusCode.ERROR, "it went wrong", "_OTHER"),
        (StatusCode.OK, None, None),
        (StatusCode.ERROR, "boom", "ValueError"),
        (StatusCode.UNSET, None, None),
    ]


def test_an_ok_that_user_code_has_set_does_not_hide_an_exception() -> None:
    """`error.type` stands exactly where the status is ERROR, whoever said what."""
    with testing.capture() as seen, pytest.raises(ValueError, match="boom"), tool("t"):
        trace.get_current_span().set_status(StatusCode.OK)
        raise ValueError("boom")
    (span,) = seen.spans
    assert (span.status.status_code is StatusCode.ERROR) == ("error.type" in (span.attributes or {}))


def test_error_type_stands_exactly_where_the_status_is_error() -> None:
    emit = Emitter()
    outcomes: list[dict[str, Any]] = [
        {"success": True},
        {"success": False},
        {"success": False, "error_type": "TimeoutError"},
        {"success": False, "error_message": "no type"},
        {"success": True, "outcome": "cancelled"},
        {"success": False, "outcome": "cancelled"},
        {"success": False, "outcome": "interrupted"},
        {"success": True, "error_type": "Odd"},
        {"success": False, "attributes": {"error.type": "mine"}},
        {"success": True, "attributes": {"error.type": "mine"}},
        {"success": True, "attributes": {"agentbus.span": {"status": ["ERROR", "said so"]}}},
        {"success": False, "error_type": "E", "attributes": {"agentbus.span": {"status": ["OK", None]}}},
    ]
    for number, outcome in enumerate(outcomes):
        emit(AgentStart, number, invocation_id=f"r{number}", agent="a")
        emit(LlmResponse, number, invocation_id=f"r{number}", **MODEL, call_id="c", duration=0.1, **outcome)
        emit(ToolCall, number, invocation_id=f"r{number}", tool="t", tool_call_id="d", duration=0.1, **outcome)
        ended = {key: value for key, value in outcome.items() if key != "success"}
        emit(AgentEnd, number, invocation_id=f"r{number}", duration=0.1, **ended)
    emit(AgentStart, 50, **RUN)  # left open: interrupted
    emit(Error, 60, component="c", message="m")
    spans = bridged().feed(emit.events).closed()
    assert len(spans) == len(outcomes) * 3 + 2
    for span in spans:
        wrong = span.status.status_code is StatusCode.ERROR
        assert wrong == ("error.type" in (span.attributes or {})), (span.name, span.attributes, span.status)
        if not wrong:
            assert span.status.description is None


def test_a_thousand_span_events_arrive_and_what_is_over_the_limit_is_counted() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False, span_limits=SpanLimits(max_events=1000))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    emit = Emitter()
    emit(AgentStart, 0, **RUN)
    for number in range(1200):
        emit(DomainEvent, number / 1000, **RUN, name=f"n{number}")
    emit(AgentEnd, 9, **RUN, duration=9.0)
    seen = Bridged(SpanBridge(provider), exporter).feed(emit.events)
    (span,) = seen.closed()
    assert (len(span.events), span.dropped_events) == (1000, 200)
    assert len(span.attributes or {}) < 100


def test_links_and_events_of_user_code_arrive_with_their_times() -> None:
    other = trace.SpanContext(7, 8, is_remote=True, trace_flags=trace.TraceFlags(1))
    with testing.capture() as seen, tool("t"):
        current = trace.get_current_span()
        current.add_link(other, {"why": "because"})
        current.add_event("then", {"n": 1}, timestamp=123)
        current.set_attribute("mine", [1, 2])
        current.update_name("renamed")
        current.record_exception(KeyError("handled"))
    span = seen.span("renamed")
    assert [(link.context.span_id, dict(link.attributes or {})) for link in span.links] == [(8, {"why": "because"})]
    assert (span.events[0].name, span.events[0].timestamp) == ("then", 123)
    assert span.events[1].name == "exception"
    assert (span.events[1].attributes or {})["exception.type"] == "KeyError"
    assert (span.attributes or {})["mine"] == (1, 2)
    assert span.status.status_code is StatusCode.UNSET
