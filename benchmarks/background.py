"""What a span costs the background: from events to ended spans, and up to OTLP bytes, against the SDK alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.trace import Span, SpanKind, set_span_in_context

import otel_agentbus as agentbus
from otel_agentbus import SpanBridge, testing
from otel_agentbus.events import Event

from .table import Effort, Row, Timed, sample

RUNS = 8
#: Up to OTLP bytes, a span must not cost more than the SDK's own.
TARGET = 1.0


def program(runs: int) -> None:
    """A planner that calls models and tools, one of which is another agent."""
    for number in range(runs):
        with agentbus.agent("planner", provider="openai", model="gpt-5-mini") as run:
            for turn in range(4):
                with run.llm(messages_count=2 * turn + 1, parameters={"temperature": 0.2, "max_tokens": 500}) as call:
                    call.record(
                        response_model="gpt-5-mini-2026",
                        response_id=f"r{number}-{turn}",
                        finish_reasons=["stop"],
                        input_tokens=120,
                        output_tokens=40,
                        cache_read_input_tokens=20,
                    )
                with run.tool("search", tool_call_id=f"c{number}-{turn}"):
                    pass
            with run.tool("ask", tool_call_id=f"a{number}"), agentbus.agent("researcher", provider="openai") as other:
                for turn in range(4):
                    with other.llm("gpt-5", messages_count=turn + 1) as call:
                        call.record(response_model="gpt-5", input_tokens=900, output_tokens=100)


def recorded(runs: int) -> list[Event]:
    """The events of that program, as they were emitted."""
    with testing.capture(validate_events=False) as seen:
        program(runs)
    return seen.events


class Collected(SpanProcessor):
    """Keeps what ends."""

    def __init__(self) -> None:
        self.ended: list[ReadableSpan] = []

    def on_end(self, span: ReadableSpan) -> None:
        """Keep it."""
        self.ended.append(span)


@dataclass(slots=True)
class Told:
    """A span as a program would tell it to the SDK."""

    name: str
    kind: SpanKind
    parent: int | None
    started_ns: int | None
    at_start: dict[str, Any]
    ended_ns: int | None = None
    at_end: dict[str, Any] = field(default_factory=dict)


class Script(SpanProcessor):
    """Writes down what is told of spans, in its order, to tell it again to a plain tracer."""

    def __init__(self) -> None:
        #: Each span twice: where it begins and where it ends.
        self.steps: list[tuple[int, Told]] = []
        self._told: dict[int, Told] = {}

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Write down a beginning."""
        said: Any = span
        parent = None if said.parent is None else said.parent.span_id
        told = Told(said.name, said.kind, parent, said.start_time, dict(said.attributes or {}))
        self._told[said.context.span_id] = told
        self.steps.append((said.context.span_id, told))

    def on_end(self, span: ReadableSpan) -> None:
        """Write down an end."""
        said: Any = span
        told = self._told.pop(said.context.span_id)
        told.ended_ns = span.end_time
        told.at_end = {key: value for key, value in (span.attributes or {}).items() if key not in told.at_start}
        self.steps.append((said.context.span_id, told))


class Ours:
    """The events of a recorded run, through a new bridge each time."""

    def __init__(self, events: list[Event]) -> None:
        self._events = events
        self.collected = Collected()

    def prepare(self) -> None:
        """A new bridge over a new provider."""
        self.collected = Collected()
        self._bridge = bridge_to(self.collected)

    def spans(self) -> None:
        """To ended spans."""
        bridge = self._bridge
        for event in self._events:
            bridge(event)

    def encoded(self) -> bytes:
        """To the bytes of an export request."""
        self.spans()
        return bytes(encode_spans(self.collected.ended).SerializeToString())


class Plain:
    """The same spans told to the SDK as an instrumentation does: what is known at the start, then one by one."""

    def __init__(self, steps: list[tuple[int, Told]]) -> None:
        self._steps = steps
        self.collected = Collected()

    def prepare(self) -> None:
        """A new provider."""
        self.collected = Collected()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(self.collected)
        self._tracer = provider.get_tracer("benchmark")

    def spans(self) -> None:
        """To ended spans."""
        start_span = self._tracer.start_span
        open_spans: dict[int, Span] = {}
        for span_id, told in self._steps:
            span = open_spans.pop(span_id, None)
            if span is None:
                parent = None if told.parent is None else open_spans[told.parent]
                context = Context() if parent is None else set_span_in_context(parent, Context())
                span = start_span(told.name, context, told.kind, told.at_start, start_time=told.started_ns)
                open_spans[span_id] = span
            else:
                for key, value in told.at_end.items():
                    span.set_attribute(key, value)
                span.end(told.ended_ns)

    def encoded(self) -> bytes:
        """To the bytes of an export request."""
        self.spans()
        return bytes(encode_spans(self.collected.ended).SerializeToString())


def bridge_to(processor: SpanProcessor) -> SpanBridge:
    """A bridge over a provider with this processor alone."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(processor)
    return SpanBridge(provider)


def both(runs: int) -> tuple[Ours, Plain, int]:
    """The two ways to the same spans, and how many these are."""
    events = recorded(runs)
    script = Script()
    bridge = bridge_to(script)
    for event in events:
        bridge(event)
    return Ours(events), Plain(script.steps), len(script.steps) // 2


def cases(runs: int) -> dict[str, Timed]:
    """Both ways, to spans and to bytes."""
    ours, plain, spans = both(runs)

    def timed(way: Ours | Plain, call: Callable[[], object]) -> Timed:
        return Timed(call, 1, prepare=way.prepare, per=spans)

    return {
        "our spans": timed(ours, ours.spans),
        "our bytes": timed(ours, ours.encoded),
        "plain spans": timed(plain, plain.spans),
        "plain bytes": timed(plain, plain.encoded),
    }


def rows(effort: Effort) -> list[Row]:
    """One span in the background, to its end and to its bytes."""
    taken = sample(cases(effort.of(RUNS)), effort)
    return [
        Row("background, a span", taken["our spans"], "the SDK's start, set, end", taken["plain spans"]),
        Row("background, a span to bytes", taken["our bytes"], "the SDK's, encoded", taken["plain bytes"], TARGET),
    ]
