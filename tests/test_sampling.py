"""One decision for each tree, made in the caller; spans of other instrumentation hang in that tree at their places."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import httpx
import pytest
from opentelemetry import baggage, trace
from opentelemetry.context import Context, attach, detach
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    DEFAULT_OFF,
    DEFAULT_ON,
    Decision,
    ParentBased,
    ParentBasedTraceIdRatio,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanKind, TraceState

from otel_agentbus import SpanBridge, agent, llm, tool
from otel_agentbus.events import AgentEnd, AgentStart, DomainEvent, Event, LlmRequest, LlmResponse, ToolCall
from otel_agentbus.telemetry.ids import Ids
from otel_agentbus.telemetry.tracer import SCOPE, our_tracer

from .bridging import Bridged, Connected, Emitter, bridged, connected
from .receivers import HttpReceiver, forget_environment

MODEL: dict[str, Any] = {"model_provider": "openai", "model": "m"}
OURS = {"invoke_agent planner", "chat m", "execute_tool search", "invoke_agent researcher"}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)


@pytest.fixture(scope="module")
def server() -> Iterator[HttpReceiver]:
    with HttpReceiver() as receiver:
        yield receiver


class Scripted(Sampler):
    """A sampler that remembers who asked what, and answers as told."""

    def __init__(self, answer: Callable[[int], SamplingResult]) -> None:
        self.answer = answer
        self.asked: list[tuple[str, int, dict[str, Any]]] = []

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        self.asked.append((name, threading.get_ident(), dict(attributes or {})))
        return self.answer(len(self.asked))

    def get_description(self) -> str:
        return "Scripted"


def always(decision: Decision) -> Scripted:
    return Scripted(lambda _: SamplingResult(decision))


def alternating() -> Scripted:
    return Scripted(lambda asked: SamplingResult(Decision.RECORD_AND_SAMPLE if asked % 2 else Decision.DROP))


def adding() -> Scripted:
    state = TraceState([("vendor", "kept"), ("other", "1")])
    added: dict[str, Any] = {"sampler.added": 7, "gen_ai.operation.name": "the sampler's"}
    return Scripted(lambda _: SamplingResult(Decision.RECORD_AND_SAMPLE, added, state))


def raising() -> Scripted:
    def fail(_: int) -> SamplingResult:
        raise RuntimeError("a sampler's own trouble")

    return Scripted(fail)


OUTER_ON, OUTER_OFF = TracerProvider(sampler=ALWAYS_ON), TracerProvider(sampler=ALWAYS_OFF)
Outer = Callable[[], AbstractContextManager[Any]]
OUTERS: dict[str, Outer] = {
    "no outer span": nullcontext,
    "sampled outer span": lambda: OUTER_ON.get_tracer("app").start_as_current_span("outer"),
    "unsampled outer span": lambda: OUTER_OFF.get_tracer("app").start_as_current_span("outer"),
}
SAMPLERS: dict[str, Callable[[], Sampler]] = {
    "always_on": lambda: ALWAYS_ON,
    "always_off": lambda: ALWAYS_OFF,
    "parentbased_always_on": lambda: DEFAULT_ON,
    "parentbased_always_off": lambda: DEFAULT_OFF,
    "traceidratio 0": lambda: TraceIdRatioBased(0.0),
    "traceidratio 0.5": lambda: TraceIdRatioBased(0.5),
    "parentbased_traceidratio 0.5": lambda: ParentBasedTraceIdRatio(0.5),
    "parentbased local off remote on": lambda: ParentBased(ALWAYS_ON, local_parent_sampled=ALWAYS_OFF),
    "record only": lambda: always(Decision.RECORD_ONLY),
    "adds attributes and trace state": adding,
    "has a state of its own": alternating,
}


def program(url: str, provider: TracerProvider) -> None:
    """Two runs, one within the other, with a real HTTP request in a model call and in a tool call."""
    with httpx.Client() as client:
        HTTPXClientInstrumentor.instrument_client(client, tracer_provider=provider)
        with agent("planner", model="m") as run, run.tool("search"):
            client.get(f"{url}/tool")
            with agent("researcher"), llm("m"):
                client.get(f"{url}/llm")


def parent_ids(span: ReadableSpan) -> tuple[int, int] | None:
    return None if span.parent is None else (span.parent.trace_id, span.parent.span_id)


def own_ids(span: ReadableSpan) -> tuple[int, int]:
    assert span.context is not None
    return span.context.trace_id, span.context.span_id


def random_flag(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.trace_flags) & 2


@pytest.mark.parametrize("outer", OUTERS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_all_of_our_tree_is_exported_or_none_with_the_http_spans_in_their_places(
    sampler: str, outer: str, server: HttpReceiver
) -> None:
    for _ in range(3):  # a ratio keeps one tree and drops another
        server.received.clear()
        with connected(SAMPLERS[sampler]()) as seen, OUTERS[outer]() as outside:
            program(server.url, seen.provider)
            ours, spans = seen.ours, seen.spans
        assert set(ours) in (OURS, set())
        above = None if outside is None else outside.get_span_context()
        assert_tree(ours, spans, above)
        assert_headers(ours, spans, server, above)


def assert_tree(ours: dict[str, ReadableSpan], spans: Sequence[ReadableSpan], above: trace.SpanContext | None) -> None:
    if ours:
        root, sub = ours["invoke_agent planner"], ours["invoke_agent researcher"]
        assert parent_ids(root) == (None if above is None else (above.trace_id, above.span_id))
        assert parent_ids(ours["execute_tool search"]) == own_ids(root)
        assert parent_ids(sub) == own_ids(ours["execute_tool search"])
        assert parent_ids(ours["chat m"]) == own_ids(sub)
        assert len({own_ids(span)[0] for span in spans}) == 1
        assert len({span.context.trace_state.to_header() for span in ours.values() if span.context}) == 1
        assert len({int(span.context.trace_flags) for span in ours.values() if span.context}) == 1


def assert_headers(
    ours: dict[str, ReadableSpan], spans: Sequence[ReadableSpan], server: HttpReceiver, above: trace.SpanContext | None
) -> None:
    """What the server saw is what was exported: an HTTP span in its place, or no sampled parent at all."""
    http = {own_ids(span): span for span in spans if span.name == "GET"}
    trace_ids = {own_ids(span)[0] for span in ours.values()}
    for path, block in (("/tool", "execute_tool search"), ("/llm", "chat m")):
        (request,) = server.of(path)
        version, trace_id, span_id, flags = request.headers["traceparent"].split("-")
        assert version == "00"
        exported = http.get((int(trace_id, 16), int(span_id, 16)))
        assert bool(int(flags, 16) & 1) == (exported is not None)
        if above is not None:
            assert int(trace_id, 16) == above.trace_id
        if ours:
            assert int(trace_id, 16) in trace_ids
        if ours and exported is not None:
            assert parent_ids(exported) == own_ids(ours[block])
            assert random_flag(exported) == random_flag(ours[block])


@pytest.mark.parametrize("outer", OUTERS)
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if "0.5" not in name and "state of" not in name])
def test_the_decision_is_the_one_that_the_sdk_would_make_for_the_root(sampler: str, outer: str) -> None:
    with connected(SAMPLERS[sampler]()) as seen, OUTERS[outer]() as outside:
        with agent("planner"):
            pass
        context = trace.set_span_in_context(outside) if outside else Context()
        result = SAMPLERS[sampler]().should_sample(context, 1, "invoke_agent planner", SpanKind.INTERNAL, {}, ())
        assert bool(seen.spans) == (result.decision is Decision.RECORD_AND_SAMPLE)


def test_a_sampler_that_records_without_sampling_lets_processors_see_the_spans_and_exports_none() -> None:
    class Watching(SpanProcessor):
        def __init__(self) -> None:
            self.ended: list[tuple[str, dict[str, Any]]] = []

        def on_end(self, span: ReadableSpan) -> None:
            self.ended.append((span.name, dict(span.attributes or {})))

    watching = Watching()
    with connected(always(Decision.RECORD_ONLY), watching) as seen:
        with agent("a"), llm("m"):
            current = trace.get_current_span()
            assert current.is_recording()
            assert not current.get_span_context().trace_flags.sampled
            current.set_attribute("mine", 1)
        assert seen.spans == ()
    assert [name for name, _ in watching.ended] == ["chat m", "invoke_agent a"]
    assert watching.ended[0][1]["mine"] == 1


def test_what_is_dropped_does_not_record_in_the_caller_either() -> None:
    with connected(ALWAYS_OFF) as seen:
        with agent("a"):
            current = trace.get_current_span()
            assert not current.is_recording()
            assert current.get_span_context().is_valid
            current.set_attribute("mine", 1)
        assert seen.spans == ()


def test_the_samplers_attributes_land_on_the_root_and_never_replace_its_own(server: HttpReceiver) -> None:
    with connected(adding()) as seen:
        program(server.url, seen.provider)
        ours = seen.ours
    assert {name: (span.attributes or {}).get("sampler.added") for name, span in ours.items()} == {
        "invoke_agent planner": 7,
        "execute_tool search": None,
        "invoke_agent researcher": None,
        "chat m": None,
    }
    assert {name: (span.attributes or {})["gen_ai.operation.name"] for name, span in ours.items()} == {
        "invoke_agent planner": "invoke_agent",
        "execute_tool search": "execute_tool",
        "invoke_agent researcher": "invoke_agent",
        "chat m": "chat",
    }
    assert {span.context.trace_state.to_header() for span in ours.values() if span.context} == {"vendor=kept,other=1"}


def test_the_trace_state_of_the_outer_span_is_that_of_the_whole_tree() -> None:
    outer = trace.NonRecordingSpan(
        trace.SpanContext(5, 6, is_remote=True, trace_flags=trace.TraceFlags(3), trace_state=TraceState([("a", "1")]))
    )
    with connected() as seen:
        token = attach(trace.set_span_in_context(outer))
        try:
            with agent("a"), llm("m"):
                assert trace.get_current_span().get_span_context().trace_state.to_header() == "a=1"
        finally:
            detach(token)
        ours = seen.ours
    root = ours["invoke_agent a"]
    assert root.parent == outer.get_span_context()
    assert root.parent is not None
    assert root.parent.is_remote
    assert {span.context.trace_state.to_header() for span in ours.values() if span.context} == {"a=1"}
    assert {int(span.context.trace_flags) for span in ours.values() if span.context} == {3}
    assert not ours["chat m"].parent.is_remote  # type: ignore[union-attr]  # it has one


@pytest.mark.parametrize("flags", [0, 1, 2, 3])
def test_the_random_flag_of_the_outer_trace_is_copied(flags: int) -> None:
    outer = trace.NonRecordingSpan(trace.SpanContext(5, 6, is_remote=True, trace_flags=trace.TraceFlags(flags)))
    with connected(ALWAYS_ON) as seen:
        token = attach(trace.set_span_in_context(outer))
        try:
            with agent("a"):
                inside = int(trace.get_current_span().get_span_context().trace_flags)
        finally:
            detach(token)
        (span,) = seen.spans
    assert span.context is not None
    assert int(span.context.trace_flags) == inside == (flags & 2) | 1


# Who is asked, how often, where


def test_the_sampler_is_asked_once_for_each_root_in_the_callers_thread() -> None:
    sampler = always(Decision.RECORD_AND_SAMPLE)
    with connected(sampler) as seen:
        for _ in range(5):
            with agent("planner", provider="openai", model="m", team="red") as run:
                for _ in range(3):
                    with run.llm(), tool("t"), agent("sub"), llm("m"):
                        pass
        with llm("stray"):
            pass
        with tool("stray"):
            pass
        assert len(seen.spans) == 5 + 5 * 3 * 4 + 2
    here = threading.get_ident()
    assert [(name, thread) for name, thread, _ in sampler.asked] == [
        *[("invoke_agent planner", here)] * 5,
        ("chat stray", here),
        ("execute_tool stray", here),
    ]
    assert {"gen_ai.agent.name": "planner", "team": "red"}.items() <= sampler.asked[0][2].items()


def test_the_sampler_is_asked_once_for_a_foreign_producers_run() -> None:
    sampler = always(Decision.RECORD_AND_SAMPLE)
    with connected(sampler) as seen:
        lineage = {"invocation_id": "turn-1", "agent": "theirs"}
        seen.bus.emit(AgentStart(**lineage))  # type: ignore[arg-type]  # all of it is text
        seen.bus.emit(LlmRequest(**MODEL, messages_count=1, call_id="c", invocation_id="turn-1"))
        seen.bus.emit(LlmResponse(**MODEL, duration=0.1, success=True, call_id="c", invocation_id="turn-1"))
        seen.bus.emit(AgentEnd(**lineage))  # type: ignore[arg-type]  # all of it is text
        assert set(seen.ours) == {"invoke_agent theirs", "chat m"}
    assert [(name, thread) for name, thread, _ in sampler.asked] == [("invoke_agent theirs", threading.get_ident())]


def test_a_sampler_with_a_state_is_never_asked_again_by_the_spans_themselves() -> None:
    sampler = alternating()
    with connected(sampler) as seen:
        for number in range(10):
            with agent(f"a{number}"), tool(f"t{number}"):
                pass
        assert set(seen.ours) == {
            f"{kind}{number}" for number in range(0, 10, 2) for kind in ("invoke_agent a", "execute_tool t")
        }
    assert len(sampler.asked) == 10


@pytest.mark.parametrize("answer", [raising(), Scripted(lambda _: None), Scripted(lambda _: "yes")])  # type: ignore[arg-type,return-value]  # samplers that answer nonsense
def test_a_sampler_that_fails_never_reaches_the_agent_and_drops_the_tree(answer: Scripted) -> None:
    heard: list[str] = []
    with connected(answer) as seen:
        seen.bus.on()(lambda event: heard.append(event.event))
        with agent("a") as run, run.llm("m") as call:
            call.record(input_tokens=3)
        assert seen.spans == ()
        assert sum(seen.points()["agentbus.llm.calls"].values()) == 1
    assert heard == ["agent.start", "llm.request", "llm.response", "agent.end"]
    assert len(answer.asked) == 1


# What processors see


class Listening(SpanProcessor):
    """Notes what the context of each span's start has."""

    def __init__(self) -> None:
        self.started: dict[str, tuple[object, int, int]] = {}

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        parent = trace.get_current_span(parent_context).get_span_context()
        said = baggage.get_baggage("tenant", parent_context)
        assert span.context is not None
        self.started[span.name] = (said, parent.span_id, span.context.span_id)


def test_the_callers_baggage_reaches_the_processors() -> None:
    listening = Listening()
    with connected(None, listening) as seen:
        token = attach(baggage.set_baggage("tenant", "outer"))
        try:
            with agent("a"):
                inner = attach(baggage.set_baggage("tenant", "inner"))
                with llm("m"):
                    pass
                detach(inner)
                with tool("t"):
                    pass
        finally:
            detach(token)
        assert seen.bus.flush()
    root = listening.started["invoke_agent a"][2]
    assert {name: found[:2] for name, found in listening.started.items()} == {
        "invoke_agent a": ("outer", 0),
        "chat m": ("inner", root),
        "execute_tool t": ("outer", root),
    }


def test_parents_start_before_their_children() -> None:
    listening = Listening()
    with connected(None, listening) as seen:
        with agent("a"), tool("t"), agent("b"), llm("m"):
            pass
        assert seen.bus.flush()
    assert list(listening.started) == ["invoke_agent a", "execute_tool t", "invoke_agent b", "chat m"]


def test_a_processor_that_starts_spans_of_its_own_gets_ids_of_its_own() -> None:
    class Spawning(SpanProcessor):
        def __init__(self) -> None:
            self.provider: TracerProvider | None = None

        def on_start(self, span: Span, parent_context: Context | None = None) -> None:
            if span.name.startswith("own"):
                return
            assert self.provider is not None
            for tracer in (self.provider.get_tracer("theirs"), our_tracer(self.provider)):
                tracer.start_span(f"own of {span.name}", context=Context()).end()

    spawning = Spawning()
    exporter = InMemorySpanExporter()
    spawning.provider = TracerProvider(shutdown_on_exit=False)
    for processor in (spawning, SimpleSpanProcessor(exporter)):
        spawning.provider.add_span_processor(processor)
    emit = Emitter()
    for number in range(50):
        emit(AgentStart, number, invocation_id=f"r{number}", agent="a")
        emit(AgentEnd, number, invocation_id=f"r{number}", agent="a", duration=0.0)
    spans = Bridged(SpanBridge(spawning.provider), exporter).feed(emit.events).closed()
    assert len({own_ids(span) for span in spans}) == 150
    assert len({own_ids(span)[0] for span in spans}) == 150
    ids = Ids()
    found = {own_ids(span) for span in spans if span.name == "invoke_agent a"}
    assert found == {(ids.trace_id(f"r{n}"), ids.span_id(f"r{n}", "agent", f"r{n}")) for n in range(50)}


# Ids


def test_two_bridges_on_one_provider_never_swap_their_ids() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    bridges = [SpanBridge(provider, id_key=bytes([number])) for number in range(4)]
    barrier = threading.Barrier(4)

    def feed(bridge: SpanBridge) -> None:
        emit = Emitter()
        for number in range(500):
            emit(AgentStart, number, invocation_id=f"r{number}", agent="a")
            emit(AgentEnd, number, invocation_id=f"r{number}", agent="a", duration=0.0)
        barrier.wait()
        for event in emit.events:
            bridge(event)

    threads = [threading.Thread(target=feed, args=(bridge,)) for bridge in bridges]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wanted = Counter(
        (ids.trace_id(f"r{number}"), ids.span_id(f"r{number}", "agent", f"r{number}"))
        for ids in (Ids(bytes([key])) for key in range(4))
        for number in range(500)
    )
    assert Counter(own_ids(span) for span in exporter.get_finished_spans()) == wanted


def test_the_applications_own_tracers_keep_their_sampler_and_their_ids() -> None:
    class Counting(RandomIdGenerator):
        def __init__(self) -> None:
            self.made: list[int] = []

        def generate_span_id(self) -> int:
            self.made.append(super().generate_span_id())
            return self.made[-1]

    generator, sampler = Counting(), always(Decision.RECORD_AND_SAMPLE)
    provider = TracerProvider(sampler=sampler, id_generator=generator, shutdown_on_exit=False)
    exporter = InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    before, bridge = provider.get_tracer("before"), SpanBridge(provider)
    emit = Emitter()
    emit(AgentStart, 0, invocation_id="r", agent="a")
    bridge(emit.events[0])
    for tracer in (before, provider.get_tracer("after"), our_tracer(provider)):
        tracer.start_span("theirs").end()
    assert provider.id_generator is generator
    assert provider.sampler is sampler
    assert generator.made == [own_ids(span)[1] for span in exporter.get_finished_spans()]
    assert [name for name, _, _ in sampler.asked] == ["invoke_agent a", "theirs", "theirs", "theirs"]


def test_a_seeded_random_module_repeats_none_of_our_ids() -> None:
    with connected() as seen:
        for _ in range(100):
            random.seed(0)
            with agent("a") as run, run.llm("m"), tool("t"):
                pass
        spans = seen.spans
    assert len({own_ids(span)[0] for span in spans}) == 100
    assert len({own_ids(span) for span in spans}) == len(spans) == 300


# Shares


ROOTS = 2000


def tree(number: int) -> None:
    with agent("planner") as run:
        with run.llm("m"):
            pass
        with run.tool("search"), agent("researcher"), llm("m"):
            pass


@pytest.mark.parametrize("ratio", [0.1, 0.5])
@pytest.mark.parametrize("make", [TraceIdRatioBased, ParentBasedTraceIdRatio])
def test_a_ratio_keeps_whole_traces_and_its_share_of_the_roots(ratio: float, make: Callable[[float], Sampler]) -> None:
    with connected(make(ratio)) as seen:
        for number in range(ROOTS):
            tree(number)
        kept = Counter(own_ids(span)[0] for span in seen.spans)
    assert set(kept.values()) == {5}
    assert abs(len(kept) - ROOTS * ratio) < 5 * (ROOTS * ratio * (1 - ratio)) ** 0.5


@pytest.mark.parametrize("ratio", [0.1, 0.5])
def test_several_processes_keep_the_same_traces(ratio: float) -> None:
    """Parent and sub-agents are told by different sources to different bridges, and nobody says what was decided."""
    kept: list[Counter[int]] = []
    for source in range(3):
        emit = Emitter(f"s{source}")
        for number in range(ROOTS):
            run: dict[str, Any] = {
                "invocation_id": f"r{number}-{source}",
                "root_invocation_id": f"r{number}",
                "agent": "a",
            }
            emit(AgentStart, 0, **run)
            emit(ToolCall, 1, **run, tool="t", tool_call_id="c", duration=0.5, success=True)
            emit(AgentEnd, 2, **run, duration=2.0)
            emit(DomainEvent, 3, **run, name="late")
        spans = bridged(TraceIdRatioBased(ratio)).feed(emit.events).closed()
        kept.append(Counter(own_ids(span)[0] for span in spans))
    assert kept[0] == kept[1] == kept[2]
    assert set(kept[0].values()) == {3}
    assert abs(len(kept[0]) - ROOTS * ratio) < 5 * (ROOTS * ratio * (1 - ratio)) ** 0.5


# Metrics


def numbers_under(sampler: Sampler) -> dict[str, Any]:
    with connected(sampler) as seen:
        for number in range(20):
            seen.bus.emit(AgentStart(invocation_id=f"r{number}", agent="a", time_ns=0))
            usage: dict[str, Any] = {"input_tokens": 3, "output_tokens": 4, "cost_usd": 0.5}
            seen.bus.emit(
                LlmResponse(**MODEL, invocation_id=f"r{number}", duration=0.25, success=number % 2 == 0, **usage)
            )
            seen.bus.emit(ToolCall(tool="t", invocation_id=f"r{number}", duration=0.5, success=True))
            seen.bus.emit(AgentEnd(invocation_id=f"r{number}", duration=1.0))
        points = seen.points()
    return {name: found for name, found in points.items() if not name.startswith(("agentbus.spans.", "otel."))}


def test_metrics_do_not_change_with_sampling() -> None:
    everything = numbers_under(ALWAYS_ON)
    assert sum(everything["agentbus.tokens.used"].values()) == 20 * 7
    assert sum(everything["agentbus.agent.runs"].values()) == 20
    assert numbers_under(ALWAYS_OFF) == everything
    assert numbers_under(TraceIdRatioBased(0.5)) == everything
    assert numbers_under(always(Decision.RECORD_ONLY)) == everything
    assert numbers_under(raising()) == everything


def test_ten_thousand_runs_keep_the_metrics_attribute_sets_bounded() -> None:
    """Every name that a program can make up as it goes is made up here."""
    with connected(ALWAYS_OFF) as seen:
        for number in range(10_000):
            who: dict[str, Any] = {
                "invocation_id": f"r{number}",
                "agent": f"agent {number}",
                "conversation_id": f"c{number}",
            }
            model: dict[str, Any] = {"model_provider": f"p{number}", "model": f"model-{number}"}
            events: list[Event] = [
                AgentStart(**who),
                LlmResponse(**model, **who, duration=0.1, success=False, error_type=f"E{number}", input_tokens=1),
                ToolCall(tool=f"tool {number}", duration=0.1, success=True, **who),
                AgentEnd(**who),
            ]
            for event in events:
                seen.bus.emit(event)
            if number % 2000 == 0:
                assert seen.bus.flush(60)
        points = seen.points()
        assert sum(points["agentbus.llm.calls"].values()) == 10_000
    assert {name: len(found) for name, found in points.items() if len(found) > 2000} == {}
    said = {str(value) for found in points.values() for key in found for _, value in key}
    assert not {f"r{number}" for number in range(10_000)} & said
    assert not {f"c{number}" for number in range(10_000)} & said


def test_every_span_is_of_our_scope(server: HttpReceiver) -> None:
    seen: Connected
    with connected() as seen:
        program(server.url, seen.provider)
        scopes = Counter(span.instrumentation_scope.name for span in seen.spans if span.instrumentation_scope)
    assert scopes == {SCOPE: 4, "opentelemetry.instrumentation.httpx": 2}
