"""Whatever order events come in, however often: the same spans. And what is lost moves no other span."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan

from otel_agentbus import contract
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
    TurnComplete,
)

from .bridging import Emitter, bridged

MODEL: dict[str, Any] = {"model_provider": "openai", "model": "m"}
MOMENTS: list[tuple[type[Event], dict[str, Any]]] = [
    (TurnComplete, {}),
    (CacheHit, {"cache_type": "response", "tokens_saved": 3}),
    (DomainEvent, {"name": "lead", "data": {"score": 1}}),
    (Error, {"component": "c", "message": "oops"}),
]


@pytest.fixture(autouse=True, scope="module")
def _gaps_are_waited_for() -> Iterator[None]:
    """However slow this machine is, no gap is given up before the end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("otel_agentbus.telemetry.spans.time.monotonic_ns", lambda: 0)
        yield


class Program:
    """A random program of nested runs and calls, told by one or several sources as time goes by."""

    def __init__(self, seed: int, sources: int) -> None:
        self.random = random.Random(seed)
        self.emitters = [Emitter(f"s{number}") for number in range(sources)]
        self.clock = 0.0
        self.names = 0
        for _ in range(self.random.randint(1, 3)):
            self.run(None, None, None, 0)

    @property
    def events(self) -> list[Event]:
        return [event for emitter in self.emitters for event in emitter.events]

    def tick(self) -> float:
        self.clock += self.random.choice([0.001, 0.01, 0.1])
        return self.clock

    def fresh(self, kind: str) -> str:
        self.names += 1
        return f"{kind}{self.names}"

    def run(self, parent: str | None, root: str | None, call: str | None, depth: int) -> None:
        run_id = self.fresh("run")
        emit = self.random.choice(self.emitters)
        lineage: dict[str, Any] = {
            "invocation_id": run_id,
            "parent_invocation_id": parent,
            "root_invocation_id": root or run_id,
            "agent": f"agent{depth}",
        }
        begun = self.tick()
        emit(AgentStart, begun, **lineage, parent_call_id=call, **MODEL)
        for _ in range(self.random.randint(0, 4)):
            self.step(emit, lineage, None, depth)
        ended = self.tick()
        emit(AgentEnd, ended, **lineage, parent_call_id=call, duration=ended - begun)

    def step(self, emit: Emitter, lineage: dict[str, Any], within: str | None, depth: int) -> None:
        what = self.random.choice(["llm", "tool", "moment", "moment"])
        if what == "moment":
            cls, fields = self.random.choice(MOMENTS)
            emit(cls, self.tick(), **lineage, parent_call_id=within, **fields)
            return
        call, begun = self.fresh(what), self.tick()
        where = {**lineage, "parent_call_id": within}
        if what == "llm":
            emit(LlmRequest, begun, **where, **MODEL, messages_count=1, call_id=call)
            self.inside(emit, lineage, f"llm:{call}", depth)
            ended = self.tick()
            emit(
                LlmResponse,
                ended,
                **where,
                **MODEL,
                call_id=call,
                duration=ended - begun,
                success=self.random.random() < 0.8,
                input_tokens=7,
                output_tokens=2,
            )
        else:
            emit(ToolCallStart, begun, **where, tool="t", tool_call_id=call)
            self.inside(emit, lineage, call, depth)
            ended = self.tick()
            duration = ended - begun
            emit(ToolCall, ended, **where, tool="t", tool_call_id=call, duration=duration, success=True)

    def inside(self, emit: Emitter, lineage: dict[str, Any], call: str, depth: int) -> None:
        for _ in range(self.random.randint(0, 2)):
            if depth < 2 and self.random.random() < 0.4:
                self.run(lineage["invocation_id"], lineage["root_invocation_id"], call, depth + 1)
            elif depth < 3:
                self.step(emit, lineage, call, depth + 1)


def facts(span: ReadableSpan) -> tuple[Any, ...]:
    """Everything that a span says."""
    assert span.context is not None
    return (
        f"{span.context.trace_id:032x}",
        f"{span.context.span_id:016x}",
        None if span.parent is None else f"{span.parent.span_id:016x}",
        span.name,
        span.start_time,
        span.end_time,
        span.kind,
        span.status.status_code,
        span.status.description,
        tuple((span.attributes or {}).items()),
        tuple((event.name, event.timestamp, tuple((event.attributes or {}).items())) for event in span.events),
    )


def spans_of(events: list[Event]) -> dict[str, tuple[Any, ...]]:
    found = [facts(span) for span in bridged().feed(events).closed()]
    assert len({fact[1] for fact in found}) == len(found), "two spans have one id"
    return {fact[1]: fact for fact in found}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10_000), sources=st.sampled_from([1, 3]), data=st.data())
def test_any_permutation_and_duplication_gives_the_same_spans(seed: int, sources: int, data: st.DataObject) -> None:
    events = Program(seed, sources).events
    want = spans_of(events)
    order = random.Random(data.draw(st.integers(0, 10_000)))
    twice = order.choices(events, k=order.randint(0, len(events)))
    mixed = [*events, *twice]
    order.shuffle(mixed)
    assert spans_of(mixed) == want


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 10_000), sources=st.sampled_from([1, 3]), data=st.data())
def test_a_loss_moves_no_other_span(seed: int, sources: int, data: st.DataObject) -> None:
    events = Program(seed, sources).events
    want = spans_of(events)
    lost = data.draw(st.sampled_from(events))
    got = spans_of([event for event in events if event is not lost])
    own = {key for key, fact in want.items() if fact[4] == lost.time_ns or fact[5] == lost.time_ns}
    for key, fact in got.items():
        if key in want:
            assert fact[:4] == want[key][:4], "another span has moved"
            if key not in own:
                assert fact[4:6] == want[key][4:6], "another span's times have moved"
    assert set(want) - set(got) <= own, "another span is gone"


def test_every_span_has_a_parent_that_is_there() -> None:
    for seed in range(30):
        found = spans_of(Program(seed, 3).events)
        assert all(fact[2] is None or fact[2] in found for fact in found.values())


ENCODE = """
import sys
from tests.test_permutations import encoded
sys.stdout.buffer.write(encoded(sys.stdin.buffer.read().splitlines()))
"""


def encoded(lines: list[bytes]) -> bytes:
    """The OTLP bytes of the spans that these journal lines become."""
    spans = bridged().feed(contract.read(line) for line in lines).closed()
    raw: bytes = encode_spans(spans).SerializeToString(deterministic=True)
    return raw


def test_a_second_process_makes_the_same_bytes() -> None:
    lines = [contract.write(event) for event in Program(7, 3).events]
    again = subprocess.run(
        [sys.executable, "-c", ENCODE],
        input=b"\n".join(lines),
        capture_output=True,
        check=True,
        cwd=Path(__file__).parent.parent,
        timeout=60,
    )
    assert again.stdout == encoded(lines)
    assert len(again.stdout) > 1000
