"""The main job: what a program emitted is read back from the real Jaeger and the real Collector, to the last number."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from otel_agentbus import contract
from otel_agentbus.events import AgentEnd, AgentStart, Event, LlmRequest, LlmResponse, ToolCall
from otel_agentbus.telemetry.ids import Ids, SpanKindName
from otel_agentbus.telemetry.pricing import PriceBook
from otel_agentbus.telemetry.usage import usage_of

from .backends import Collector, Jaeger
from .otlp_json import Span

ROOT = Path(__file__).parents[2]
CHECKER = ROOT.parent / "shared" / "conformance"
PROGRAMS = ["newsroom", "assistant"]
IDS = Ids()

Protocol = Literal["grpc", "http/protobuf"]


@dataclass(frozen=True)
class Told:
    """A program that has run: its events, and the spans that Jaeger has of it."""

    service: str
    trace_id: str
    events: list[Event]
    spans: list[Span]

    def span_of(self, event: Event) -> Span:
        """The span that this event begins or ends, found by its derived id."""
        kind: SpanKindName
        match event:
            case AgentStart() | AgentEnd():
                kind, local = "agent", ""
            case LlmRequest() | LlmResponse():
                kind, local = "llm", event.call_id or ""
            case ToolCall():
                kind, local = "tool", event.tool_call_id or ""
            case _:
                raise AssertionError(f"{event.kind} has no span")
        root, run = event.root_invocation_id or "", event.invocation_id or ""
        span_id = f"{IDS.span_id(root, kind, run, local, event.attempt):016x}"
        return next(span for span in self.spans if span.span_id == span_id)


@pytest.fixture(scope="module", params=[(p, w) for p in PROGRAMS for w in ("grpc", "http/protobuf")], ids="-".join)
def told(
    request: pytest.FixtureRequest, collector: Collector, jaeger: Jaeger, tmp_path_factory: pytest.TempPathFactory
) -> Told:
    """Each program over each protocol, run as a process of its own that knows nothing but the standard variables."""
    program, protocol = request.param
    journal = tmp_path_factory.mktemp(program) / "events.jsonl"
    service = f"{program}-{uuid.uuid4().hex[:8]}"
    endpoint = collector.otlp_grpc_endpoint if protocol == "grpc" else collector.otlp_http_endpoint
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "AGENTBUS_"))}
    environment |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_SERVICE_NAME": service,
    }
    subprocess.run(
        [sys.executable, "-m", f"tests.integration.programs.{program}", str(journal)],
        cwd=ROOT,
        env=environment,
        check=True,
        timeout=60,
    )
    events = [contract.read(line) for line in journal.read_bytes().splitlines()]
    ends = [event for event in events if isinstance(event, (AgentEnd, LlmResponse, ToolCall))]
    trace_id = f"{IDS.trace_id(events[0].root_invocation_id or ''):032x}"
    return Told(service, trace_id, events, jaeger.trace(trace_id, spans=len(ends)))


def test_the_trace_has_one_root_and_no_orphan(told: Told) -> None:
    ids = {span.span_id for span in told.spans}
    assert [span.parent_span_id for span in told.spans if span.parent_span_id not in ids] == [None]
    assert len(ids) == len(told.spans)


def test_every_start_and_end_is_one_span_below_the_block_that_encloses_it(told: Told) -> None:
    runs = {event.invocation_id: event for event in told.events if isinstance(event, AgentStart)}
    ends = [event for event in told.events if isinstance(event, (AgentEnd, LlmResponse, ToolCall))]
    assert len(told.spans) == len(ends)
    for event in ends:
        span = told.span_of(event)
        if event.parent_call_id is not None:
            calls = [e for e in ends if getattr(e, "tool_call_id", None) == event.parent_call_id]
            assert [span.parent_span_id] == [told.span_of(call).span_id for call in calls]
        elif isinstance(event, AgentEnd):
            parent = runs.get(event.parent_invocation_id)
            assert span.parent_span_id == (None if parent is None else told.span_of(parent).span_id)
        else:
            assert span.parent_span_id == told.span_of(runs[event.invocation_id]).span_id


def test_spans_last_as_long_as_their_events_say(told: Told) -> None:
    for event in told.events:
        if isinstance(event, (AgentEnd, LlmResponse, ToolCall)):
            span = told.span_of(event)
            assert event.duration is not None
            assert span.end_ns - span.start_ns == round(event.duration * 1e9)


def test_outcomes_and_errors_are_those_of_the_events(told: Told) -> None:
    seen: Counter[str] = Counter()
    for event in told.events:
        if isinstance(event, (AgentEnd, LlmResponse, ToolCall)):
            span = told.span_of(event)
            assert span.attributes["agentbus.outcome"] == event.outcome
            assert (span.status == "ERROR") == (event.outcome == "error") == ("error.type" in span.attributes)
            if event.outcome == "error":
                assert span.attributes["error.type"] == event.error_type
                assert [e.name for e in span.events if e.name == "exception"] == ["exception"]
            seen[event.outcome or ""] += 1
    assert seen["error"] >= 1
    if told.service.startswith("newsroom"):
        assert seen["cancelled"] >= 1


def test_names_are_those_of_the_conventions_1_41(told: Told) -> None:
    for event in told.events:
        match event:
            case AgentStart():
                span = told.span_of(event)
                assert (span.name, span.kind) == (f"invoke_agent {event.agent}", "INTERNAL")
                assert span.attributes["gen_ai.operation.name"] == "invoke_agent"
            case LlmRequest():
                span = told.span_of(event)
                assert (span.name, span.kind) == (f"chat {event.model}", "CLIENT")
                assert span.attributes["gen_ai.operation.name"] == "chat"
                assert span.attributes["gen_ai.request.model"] == event.model
            case LlmResponse(input_tokens=int() as tokens):
                span = told.span_of(event)
                assert span.attributes["gen_ai.usage.input_tokens"] == tokens
                assert span.attributes["gen_ai.usage.output_tokens"] == event.output_tokens
            case ToolCall():
                span = told.span_of(event)
                assert (span.name, span.kind) == (f"execute_tool {event.tool}", "INTERNAL")
                assert span.attributes["gen_ai.tool.call.id"] == event.tool_call_id
    assert {span.scope for span in told.spans} == {"otel_agentbus"}
    assert {span.resource["service.name"] for span in told.spans} == {told.service}


#: What is no name of the conventions: ours, and the keywords that the newsroom gives its tools.
NOT_GENAI = ["agentbus.", "mirror", "page"]
#: What the checker may say of us, word for word; an entry that it no longer says fails the test, too.
DELIBERATE_GAPS: frozenset[str] = frozenset()


def test_the_official_conventions_find_no_violation(told: Told, collector: Collector, tmp_path: Path) -> None:
    if not CHECKER.is_dir():
        pytest.skip("the conformance checker does not lie beside this checkout")
    path = tmp_path / "spans.otlp.jsonl"
    collector.otlp_json_lines(path, told.trace_id, spans=len(told.spans))
    command = [sys.executable, str(CHECKER / "semconv_check.py"), str(CHECKER / "data"), str(path), *NOT_GENAI]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    *said, last = checked.stdout.strip().splitlines()
    violations = {line for line in said if ": info: " not in line}
    assert violations == DELIBERATE_GAPS, checked.stdout + checked.stderr
    assert last.startswith(f"{len(told.spans)} spans, ")


def test_the_counters_are_the_sums_of_the_events(told: Told, collector: Collector) -> None:
    responses = [event for event in told.events if isinstance(event, LlmResponse)]
    metrics = collector.metrics("agentbus_llm_calls_total", job=told.service)
    for kind in ("input", "output"):
        want = sum(getattr(event, f"{kind}_tokens") or 0 for event in responses)
        got = metrics.total("agentbus_tokens_used_total", job=told.service, gen_ai_token_type=kind)
        assert got == want
    assert metrics.total("agentbus_llm_calls_total", job=told.service) == len(responses)
    book = PriceBook()
    book.load()
    cost = sum(event.cost_usd or book.charge(event, usage_of(event)).usd or 0 for event in responses)
    assert bool(cost) == told.service.startswith("newsroom")  # the other's model is one for tests
    assert metrics.total("agentbus_cost_spent_total", job=told.service) == pytest.approx(cost, abs=1e-9)
    tools = [event for event in told.events if isinstance(event, ToolCall)]
    assert metrics.total("agentbus_tool_calls_total", job=told.service) == len(tools)
    runs = [event for event in told.events if isinstance(event, AgentEnd)]
    assert metrics.total("agentbus_agent_runs_total", job=told.service) == len(runs)
    assert metrics.total("agentbus_events_emitted_total", job=told.service) == len(told.events)
    assert metrics.total("gen_ai_client_operation_duration_seconds_count", job=told.service) == len(responses)
