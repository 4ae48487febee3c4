"""The bus in a program that misbehaves, before endpoints that misbehave: nothing raises, blocks or is lost unseen."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider

from otel_agentbus import Bus, Settings, agent, connect, llm, tool
from otel_agentbus.events import (
    AgentEnd,
    AgentStart,
    CacheHit,
    DomainEvent,
    Error,
    Event,
    LlmRequest,
    LlmResponse,
    ToolCall,
    ToolCallStart,
)
from otel_agentbus.telemetry.current import NOTES, BlockSpan
from otel_agentbus.testing import wait_until

from .bridging import connected
from .hostile import Broken, Level, cycle, deep, oddities
from .receivers import GrpcReceiver, GrpcReply, HttpReceiver, Reply, closed_port, forget_environment

LONG = 30.0
MODEL: dict[str, Any] = {"model_provider": "openai", "model": "m"}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)


def work(runs: int = 1) -> None:
    for _ in range(runs):
        with agent("a") as run, run.llm("m") as call:
            call.record(input_tokens=3)


def names_at(receiver: HttpReceiver | GrpcReceiver) -> list[str]:
    """The names of the spans that have arrived."""
    if isinstance(receiver, HttpReceiver):
        messages = [request.message for request in receiver.of("/v1/traces")]
    else:
        messages = [message for signal, message, _ in receiver.received if signal == "traces"]
    return [
        span.name
        for message in messages
        for of_resource in message.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


# What programs emit


@pytest.mark.parametrize(
    "event",
    [None, "event", 7, object(), Broken(), {}, [], ValueError("x")],
    ids=lambda event: type(event).__name__,
)
@pytest.mark.parametrize("validate", [True, False])
def test_what_is_no_event_never_raises_and_is_counted(event: Any, validate: bool) -> None:
    with connected(settings=Settings(validate_events=validate)) as seen:
        seen.bus.emit(event)
        seen.bus.router.emit(event)
        work()
        assert len(seen.spans) == 2
        assert seen.bus.health()["events"]["dropped"]["invalid"] == 2
        assert seen.bus.health()["events"]["emitted"] == 4


def test_invalid_events_are_dropped_and_counted_where_validation_is_asked_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[Event] = []
    with connected(settings=Settings(validate_events=True)) as seen:
        seen.bus.subscribe(heard.append)
        seen.bus.emit(LlmRequest(model_provider="p", model="m", messages_count="many"))  # type: ignore[arg-type]  # invalid
        seen.bus.emit(ToolCall(tool="t", duration="long", success=True))  # type: ignore[arg-type]  # invalid
        seen.bus.emit(AgentStart(attributes={"a": {"b": object()}}))  # type: ignore[dict-item]  # invalid
        seen.bus.emit(ToolCall(tool="t", duration=0.1, success=True))
        assert seen.bus.flush()
        assert seen.bus.health()["events"]["dropped"] == {"queue_full": 0, "invalid": 3, "exit_timeout": 0}
    assert [event.kind for event in heard] == ["tool.end"]
    assert "messages_count" in caplog.text


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize("capture", ["NO_CONTENT", "SPAN_AND_EVENT"])
def test_values_that_nothing_is_built_for_never_raise_and_cost_no_other_span(validate: bool, capture: str) -> None:
    settings = Settings(validate_events=validate, capture_content=capture)
    with connected(settings=settings) as seen:
        for odd in oddities():
            everywhere(seen.bus, odd)
        work()
        names = [span.name for span in seen.spans]
        assert names[-2:] == ["chat m", "invoke_agent a"]
        assert seen.bus.health()["spans"]["failed"] == 0
        assert seen.bus.health()["handlers"]["failures"] == 0


def everywhere(bus: Bus, odd: Any) -> None:
    """Say it in every field that takes a value, by blocks and by bare events."""
    with agent(odd, provider=odd, model=odd, conversation_id=odd, channel=odd, input=odd, odd=odd) as run:
        with run.llm(odd, provider=odd, messages=odd, parameters={"temperature": odd}, odd=odd) as call:
            trace.get_current_span().set_attribute("user", odd)
            trace.get_current_span().add_event("happened", {"odd": odd})
            trace.get_current_span().record_exception(ValueError(odd))
            call.record(messages=odd, input_tokens=odd, finish_reasons=odd, usage={"audio": odd}, other=odd)
        with run.tool(odd, arguments=odd, odd=odd) as call:
            call.record(result=odd, error_type=odd, error_message=odd)
        run.record(output=odd, tokens_used=odd, outcome=odd, cost_usd=odd)
    bus.publish("odd", {"odd": odd})
    bus.emit(Error(component=odd, message=odd, error_type=odd))
    bus.emit(CacheHit(cache_type=odd, tokens_saved=odd))
    bus.emit(AgentStart(agent=odd, attributes={"odd": odd}))
    bus.emit(ToolCallStart(tool=odd, arguments=odd))
    bus.emit(ToolCall(tool=odd, duration=odd, success=True, result=odd))
    bus.emit(AgentEnd(output=odd, attributes={"odd": odd}))


def test_validation_does_not_read_what_the_program_has_yet_to_read() -> None:
    messages = ({"role": "user", "content": text} for text in ("one", "two"))
    with connected(settings=Settings(validate_events=True)) as seen:
        seen.bus.emit(LlmRequest(**MODEL, messages_count=2, messages=messages))  # type: ignore[arg-type]  # lazy
    assert [message["content"] for message in messages] == ["one", "two"]


def test_an_int_enum_never_hangs_the_agent_nor_the_background() -> None:
    with connected() as seen:
        everywhere(seen.bus, Level.HIGH)
        assert seen.bus.flush()


@pytest.mark.parametrize("capture", ["NO_CONTENT", "SPAN_AND_EVENT"])
def test_what_the_program_has_yet_to_read_is_not_read(capture: str) -> None:
    def chunks() -> Iterator[str]:
        yield from ("one", "two")

    lazy = {name: chunks() for name in ("input", "attribute", "messages", "said", "arguments", "result", "data")}
    settings = Settings(capture_content=capture)
    with connected(settings=settings) as seen:
        with agent("a", input=lazy["input"], mine=lazy["attribute"]) as run:
            with run.llm("m", messages=lazy["messages"]):
                trace.get_current_span().set_attribute("said", lazy["said"])  # type: ignore[arg-type]  # lazy
            with run.tool("t", arguments=lazy["arguments"]) as used:
                used.record(result=lazy["result"])
            seen.bus.publish("lead", {"data": lazy["data"]})
        assert len(seen.spans) == 3
    assert {name: list(left) for name, left in lazy.items()} == {name: ["one", "two"] for name in lazy}


def test_what_user_code_says_of_a_span_is_bounded() -> None:
    with connected() as seen:
        with agent("a"):
            current = trace.get_current_span()
            for number in range(20_000):
                current.add_event("again", {"number": number})
                current.set_attribute(f"key{number}", number)
            current.add_link(None)  # type: ignore[arg-type]  # a program's mistake
            current.set_status("ERROR")  # type: ignore[arg-type]  # a program's mistake
            current.set_attributes(None)  # type: ignore[arg-type]  # a program's mistake
            assert isinstance(current, BlockSpan)
            assert len(current._attributes or {}) == len((current._data or {})["events"]) == NOTES
        (span,) = seen.spans
    assert span.events[-1].attributes == {"number": 999}
    assert len(span.attributes or {}) < 128


def test_ids_that_are_no_text_never_raise() -> None:
    with connected() as seen:
        for odd in oddities():
            seen.bus.emit(AgentStart(invocation_id=odd))
            seen.bus.emit(LlmResponse(**MODEL, duration=0.1, success=True, call_id=odd, invocation_id=odd))
            seen.bus.emit(AgentEnd(invocation_id=odd, parent_invocation_id=odd, trace=odd, tracestate=odd))
            seen.bus.emit(DomainEvent(name=odd, source=odd, seq=odd, time_ns=odd, attempt=odd))
        work()
        assert {"chat m", "invoke_agent a"} <= {span.name for span in seen.spans}


#: What a receipt says where nothing is unaccounted for.
BALANCED = {"events": 0, "spans": 0, "deliveries": 0, "broker": 0}

PAYLOADS: dict[str, Callable[[], Any]] = {
    "a cycle": cycle,
    "a huge int": lambda: 10**1000,
    "a lone surrogate": lambda: "\ud800",
    "10 MB": lambda: "x" * 10_000_000,
    "a broken repr": Broken,
    "a deep nest": deep,
}


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_unserialisable_payloads_never_lose_the_batch(monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    """All of them in one batch, through the real exporter, to a server that reads it."""
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", "SPAN_AND_EVENT")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
    receiver: HttpReceiver | GrpcReceiver
    with HttpReceiver() if protocol != "grpc" else GrpcReceiver() as receiver:
        url = receiver.url if isinstance(receiver, HttpReceiver) else f"http://{receiver.address}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        with connect() as bus:
            work()
            for name, payload in PAYLOADS.items():
                with agent(name, input=payload(), odd=payload()) as run:
                    with run.llm("m", messages=payload()) as call:
                        call.record(messages=payload(), odd=payload())
                    with run.tool("t", arguments=payload()) as used:
                        trace.get_current_span().set_attribute("odd", payload())
                        trace.get_current_span().add_event("odd", {"odd": payload()})
                        used.record(result=payload())
                    bus.publish("odd", {"odd": payload()})
            work()
            assert bus.flush(LONG)
            health = bus.health()
        names = names_at(receiver)
    assert sorted(names) == sorted(
        [
            *["chat m", "invoke_agent a"] * 2,
            *["chat m", "execute_tool t"] * 6,
            *[f"invoke_agent {name}" for name in PAYLOADS],
        ]
    )
    assert health["spans"]["exported"] == len(names) == 22
    assert (health["spans"]["dropped"], health["spans"]["failed"]) == ({}, 0)


# Flush


def test_a_flush_that_delivers_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        with connect() as bus:
            for number in range(1, 4):
                work()
                assert bus.flush()
                assert len(names_at(receiver)) == 2 * number


def test_a_flush_leaves_what_is_open_open(monkeypatch: pytest.MonkeyPatch) -> None:
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        with connect() as bus:
            with agent("a") as run:
                with run.llm("m"):
                    pass
                assert bus.flush()
                assert names_at(receiver) == ["chat m"]
                assert bus.health()["spans"]["open"] == 1
            assert bus.flush()
            assert names_at(receiver) == ["chat m", "invoke_agent a"]


@pytest.mark.parametrize(
    ("status", "fate", "exported"), [(400, "dead_lettered", 2), (301, "spooled", 4), (500, "spooled", 4)]
)
def test_a_flush_that_is_refused_says_so_and_what_can_be_sent_again_is(
    monkeypatch: pytest.MonkeyPatch, status: int, fate: str, exported: int
) -> None:
    with HttpReceiver({"/v1/traces": Reply(status)}) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        with connect() as bus:
            work()
            assert not bus.flush()
            assert bus.health()["spans"][fate] == 2
            receiver.replies.clear()
            work()
            assert bus.flush()
            assert bus.health()["spans"]["exported"] == exported
            assert bus.health()["balance"] == BALANCED


def test_a_flush_before_an_endpoint_that_hangs_returns_in_time_and_the_events_go_on_being_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with HttpReceiver({"/v1/traces": Reply(hang=True)}) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        with connect() as bus:
            work()
            before = time.monotonic()
            assert not bus.flush(0.5)
            assert time.monotonic() - before < 5
            work(50)  # while the thread of the flush still hangs
            assert wait_until(lambda: bus.health()["events"]["queued"] == 0, LONG)
            assert bus.health()["spans"]["open"] == 0
            assert bus.health()["events"]["dropped"]["queue_full"] == 0
            receiver.replies.clear()
            receiver.released.set()
            assert wait_until(lambda: bus.flush(LONG), LONG)
            assert Counter(names_at(receiver)).keys() == {"chat m", "invoke_agent a"}
            assert bus.health()["spans"]["exported"] == 102


def test_a_flush_without_endpoints_is_done_at_once() -> None:
    with connect() as bus:
        work()
        assert bus.flush(0.001) or bus.flush()


@pytest.mark.parametrize("timeout", [0, -1, 1e-9, 1e12, float("inf")])
def test_any_timeout_is_a_timeout(monkeypatch: pytest.MonkeyPatch, timeout: float) -> None:
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        bus = connect()
        bus.subscribe(lambda event: None, deliver="thread")
        work()
        assert bus.flush(timeout) or timeout < 1
        assert bus.close(timeout) or timeout < 1


def test_a_flush_of_a_closed_bus_says_what_is_so() -> None:
    with connect() as bus:
        work()
    assert bus.flush()
    assert bus.health()["events"]["queued"] == 0


# Close


HANGS = ["http silent", "grpc silent", "http closed port", "grpc closed port"]


@pytest.fixture(params=HANGS)
def hanging(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An endpoint that takes nothing, set in the environment."""
    protocol, _, how = request.param.partition(" ")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc" if protocol == "grpc" else "http/protobuf")
    replies = {"traces": GrpcReply(hang=True), "metrics": GrpcReply(hang=True)}
    if how == "closed port":
        with closed_port() as port:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
            yield request.param
    elif protocol == "grpc":
        with GrpcReceiver(replies) as receiver:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{receiver.address}")
            yield request.param
    else:
        with HttpReceiver({"/v1/traces": Reply(hang=True), "/v1/metrics": Reply(hang=True)}) as server:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
            yield request.param


def test_a_close_takes_no_longer_than_told_whatever_the_endpoint_does(hanging: str) -> None:
    bus = connect()
    work(2000)
    before = time.monotonic()
    assert not bus.close(1.0)
    assert time.monotonic() - before < 10  # the SDK alone takes 30
    assert bus.health()["spans"]["exported"] == 0


def test_a_close_after_a_flush_that_hangs_is_bounded_too(hanging: str) -> None:
    bus = connect()
    work()
    before = time.monotonic()
    assert not bus.flush(0.2)
    work()
    assert not bus.close(1.0)
    assert time.monotonic() - before < 10


def test_a_close_delivers_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        bus = connect()
        work(3)
        left_open = agent("open").start()
        assert bus.close()
        left_open.end()
        names = names_at(receiver)
        metrics = receiver.of("/v1/metrics")
    assert sorted(names) == ["chat m"] * 3 + ["invoke_agent a"] * 3 + ["invoke_agent open"]
    assert metrics


class Stuck(SpanProcessor):
    """An application's own processor that waits for something that does not come."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.reached = threading.Event()

    def on_end(self, span: ReadableSpan) -> None:
        self.reached.set()
        self.let_go.wait(LONG)


def test_a_span_processor_that_hangs_holds_up_neither_the_agent_nor_flush_nor_close_nor_health() -> None:
    stuck = Stuck()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(stuck)
    bus = connect(tracer_provider=provider)
    try:
        before = time.monotonic()
        work(10)
        assert stuck.reached.wait(LONG)
        work(10)
        assert bus.health()["events"]["emitted"] == 80
        assert not bus.flush(0.5)
        assert not bus.close(0.5)
        assert bus.health()["events"]["queued"] > 0
        assert time.monotonic() - before < 10
    finally:
        stuck.let_go.set()


def test_a_span_processor_that_flushes_the_bus_does_not_wait_for_itself() -> None:
    answers: list[bool] = []

    class Flushing(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            answers.append(seen.bus.flush(LONG))

    with connected(None, Flushing()) as seen:
        work()
        assert len(seen.spans) == 2
    assert answers == [False, False]


# After the close


def test_emitting_after_the_close_raises_nothing_and_reaches_nobody() -> None:
    heard: list[Event] = []
    with connected() as seen:
        seen.bus.subscribe(heard.append)
    seen.bus.emit(ToolCall(tool="t", duration=0.1, success=True))
    seen.bus.publish("late", {"a": 1})
    asyncio.run(emit_async(seen.bus))
    work()
    assert seen.bus.close()
    assert heard == []
    assert seen.exporter.get_finished_spans() == ()
    assert seen.bus.health()["events"]["queued"] == 0


async def emit_async(bus: Bus) -> None:
    await bus.emit_async(DomainEvent(name="late"))


# Health


def test_health_adds_up(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Event] = []
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        with connect() as bus:
            bus.subscribe(heard.append)
            threads = [threading.Thread(target=work, args=(100,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            running = agent("open").start()
            assert bus.flush(LONG)
            health = bus.health()
            running.end()
    assert len(heard) == 1602
    assert health["balance"] == BALANCED
    assert health["events"] == {
        "emitted": 1601,
        "received": 0,
        "queued": 0,
        "handed_over": 1601,
        "dropped": {"queue_full": 0, "invalid": 0, "exit_timeout": 0},
        "duplicate": 0,
        "skipped": 0,
        "unknown": 0,
    }
    assert health["spans"] == {
        "begun": 801,
        "open": 1,
        "ended": 800,
        "unsampled": 0,
        "elsewhere": 0,
        "interrupted": 0,
        "failed": 0,
        "adopted": 0,
        "exported": 800,
        "rejected": 0,
        "spooled": 0,
        "kept": 0,
        "dead_lettered": 0,
        "waiting": 0,
        "dropped": {},
    }
    assert health["handlers"]["failures"] == 0


def test_a_ring_that_overflows_drops_the_oldest_and_says_how_many() -> None:
    stuck = Stuck()
    with connected(None, stuck, settings=Settings(queue_size=100)) as seen:
        work()
        assert stuck.reached.wait(LONG)
        work(100)
        health = seen.bus.health()
        assert health["events"]["queued"] == 100
        dropped = health["events"]["dropped"]["queue_full"]
        assert health["events"]["emitted"] == 404
        assert dropped in (301, 302, 303)  # the first ones were taken before the processor hung
        stuck.let_go.set()
        assert seen.bus.flush(LONG)
        health = seen.bus.health()
        assert health["events"]["dropped"]["queue_full"] == health["events"]["skipped"] == dropped


def test_a_burst_is_exported_or_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        with connect() as bus:
            work(5000)
            bus.flush(LONG)
            spans = bus.health()["spans"]
    assert len(names_at(receiver)) == spans["exported"]
    assert spans["open"] == spans["failed"] == spans["spooled"] == spans["waiting"] == 0
    assert spans["dropped"] == {}
    assert spans["exported"] == spans["ended"] == 10_000


def test_a_burst_before_an_endpoint_that_hangs_goes_to_the_spool_and_the_metrics_do_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with HttpReceiver({"/v1/traces": Reply(hang=True)}) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "2048")
        with connect() as bus:
            work(5000)
            assert not bus.flush(0.1)
            assert wait_until(lambda: calls_at(receiver) == 5000, LONG)
            assert wait_until(lambda: bus.health()["spans"]["ended"] == 10_000, LONG)
            spans = bus.health()["spans"]
            assert spans["waiting"] <= 2048 + 512 + 64
            assert spans["spooled"] + spans["waiting"] == 10_000
            receiver.replies.clear()
            receiver.released.set()
            assert wait_until(lambda: bus.flush(LONG), LONG)
            assert bus.health()["spans"]["exported"] == 10_000
            assert bus.health()["balance"] == BALANCED


def calls_at(receiver: HttpReceiver) -> int:
    """How many model calls the metrics that came last have counted."""
    request = receiver.of("/v1/metrics")[-1:]
    found = [
        sum(point.as_int for point in metric.sum.data_points)
        for message in (each.message for each in request)
        for of_scope in message.resource_metrics[0].scope_metrics
        for metric in of_scope.metrics
        if metric.name == "agentbus.llm.calls"
    ]
    return sum(found)


def test_without_a_spool_what_is_over_the_bound_is_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with HttpReceiver({"/v1/traces": Reply(hang=True)}) as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
        monkeypatch.setenv("AGENTBUS_SPOOL_DIR", "off")
        monkeypatch.setenv("AGENTBUS_SPOOL_MAX_BYTES", "1000")
        with connect() as bus:
            work(1000)
            assert not bus.flush(0.1)
            assert wait_until(lambda: bus.health()["spans"]["ended"] == 2000, LONG)
            spans = bus.health()["spans"]
            assert spans["waiting"] <= 100 + 512 + 64
            assert spans["spooled"] + spans["waiting"] + sum(spans["dropped"].values()) == 2000
            assert not bus.close(0.2)
        health = bus.health()
        assert sum(health["spans"]["dropped"].values()) == 2000
        assert health["balance"] == BALANCED


def test_spans_that_end_when_somebody_has_shut_the_processor_down_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        with connect() as bus:
            bus._outlet.pipeline.shut_down(1.0)  # somebody does, though it is ours
            work(200)
            assert not bus.flush(LONG)
            assert bus.health()["spans"]["dropped"] == {"already_shutdown": 400}
            assert bus.health()["balance"] == BALANCED


# Handlers


def test_handlers_that_fail_hang_or_dawdle_never_reach_the_agent(caplog: pytest.LogCaptureFixture) -> None:
    let_go = threading.Event()
    failures: list[object] = []
    provider = TracerProvider(shutdown_on_exit=False)
    bus = connect(tracer_provider=provider, on_error=lambda *failure: failures.append(failure[2]))
    try:

        @bus.on()
        def failing(event: Event) -> None:
            raise ValueError("a handler's own trouble")

        @bus.on(deliver="thread")
        def stuck(event: Event) -> None:
            let_go.wait(LONG)

        before = time.monotonic()
        work(10)
        assert not bus.flush(0.4)
        # the bridges have theirs all the same
        assert wait_until(lambda: bus.health()["events"]["queued"] == 0, LONG)
        assert bus.health()["handlers"]["failures"] == len(failures) == 40
        assert not bus.close(0.4)
        assert time.monotonic() - before < 10
    finally:
        let_go.set()
    assert caplog.text.count("a handler's own trouble") < 5


def test_a_handler_that_hangs_costs_no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    with HttpReceiver() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        bus = connect()
        try:
            bus.subscribe(lambda event: let_go.wait(LONG), deliver="thread")
            work(10)
            assert not bus.close(2.0)
            assert len(names_at(receiver)) == 20
        finally:
            let_go.set()


async def test_a_task_that_hangs_or_fails_never_reaches_the_agent() -> None:
    heard: list[str] = []
    with connected() as seen:

        @seen.bus.on()
        async def stuck(event: Event) -> None:
            await asyncio.Event().wait()

        @seen.bus.on()
        async def failing(event: Event) -> None:
            heard.append(event.kind)
            raise ValueError("a task's own trouble")

        async with agent("a") as run, run.llm("m"):
            await asyncio.sleep(0)
        assert await asyncio.to_thread(wait_until, lambda: len(heard) == 4, LONG)
        assert [span.name for span in seen.spans] == ["chat m", "invoke_agent a"]
    assert heard == ["agent.start", "llm.request", "llm.response", "agent.end"]


def test_a_handler_that_emits_does_not_lose_its_event() -> None:
    with connected() as seen:

        @seen.bus.on(LlmResponse)
        def emit_again(event: LlmResponse) -> None:
            seen.bus.publish("answered", {"model": event.model})

        with agent("a"), llm("m"):
            pass
        spans = seen.ours
        events = [event.name for span in spans.values() for event in span.events]
        assert events == ["answered"]
        assert seen.bus.health()["events"]["skipped"] == 0


def test_what_a_block_raises_is_what_the_program_sees() -> None:
    class Failing(SpanProcessor):
        def on_start(self, span: Span, parent_context: Context | None = None) -> None:
            raise RuntimeError("a processor's own trouble")

        on_end = on_start  # type: ignore[assignment]  # it fails whatever it is given

    with connected(None, Failing()) as seen:
        seen.bus.on()(lambda event: 1 / 0)
        with pytest.raises(KeyError, match="the program's own"), agent("a"), tool("t"):
            raise KeyError("the program's own")
        assert seen.bus.flush()


def test_the_log_is_not_flooded(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(SpanProcessor):
        def on_end(self, span: ReadableSpan) -> None:
            raise RuntimeError("a processor's own trouble")

    with caplog.at_level(logging.INFO), connected(None, Failing()) as seen:
        work(500)
        assert seen.bus.flush()
        assert seen.bus.health()["spans"]["failed"] == 1000
    assert len(caplog.records) < 10
