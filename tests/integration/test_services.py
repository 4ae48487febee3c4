"""Agents in web services: one trace through two real services, whoever set up OpenTelemetry, or nobody did."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from otel_agentbus.telemetry.ids import Ids

from .backends import Collector, Jaeger, eventually
from .otlp_json import Span
from .services import Service, Wiring

#: What nobody wants to read in a service's log.
COMPLAINTS = ("Traceback", "ERROR", "WARNING", "detach", "different Context", "never awaited")

Start = Callable[..., Service]


@pytest.fixture(scope="module")
def start(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts services; all end with the tests of this file, and none may have complained."""
    started: list[Service] = []

    def start_one(wiring: Wiring, **options: Any) -> Service:
        directory = tmp_path_factory.mktemp("service")
        variables = {"AGENTBUS_SPOOL_DIR": "off", **options}
        service = Service(directory, wiring, collector.otlp_http_endpoint, **variables)
        service.start()
        started.append(service)
        return service

    yield start_one
    for service in started:
        service.stop()
    for service in started:
        said = service.log.read_text()
        assert [line for line in said.splitlines() if any(word in line for word in COMPLAINTS)] == [], said


class Pairs:
    """Two services of each wiring, the first of which asks the second."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._made: dict[Wiring, tuple[Service, Service]] = {}

    def of(self, wiring: Wiring) -> tuple[Service, Service]:
        if wiring not in self._made:
            second = self._start(wiring)
            self._made[wiring] = self._start(wiring, next=second), second
        return self._made[wiring]


@pytest.fixture(scope="module")
def pairs(start: Start) -> Pairs:
    return Pairs(start)


def chain(spans: list[Span]) -> list[tuple[str, str, str]]:
    """The spans from the top down, where each has one child at most: its service, its scope's last name, its name."""
    below = {span.parent_span_id: span for span in spans}
    assert len(below) == len(spans), "two spans have one parent"
    ids = {span.span_id for span in spans}
    (top,) = [span for span in spans if span.parent_span_id not in ids]
    found, here = [], top
    while here is not None:
        found.append((str(here.resource["service.name"]), here.scope.rpartition(".")[2], here.name))
        here = below.get(here.span_id)  # type: ignore[assignment]  # None ends it
    assert len(found) == len(spans), "a span hangs elsewhere"
    return found


def trace_of(traceparent: str) -> str:
    return traceparent.split("-")[1]


# -- joined by the instrumentation of others ---------------------------------------------------------------------------


@pytest.mark.parametrize("wiring", ["sdk", "ours"])
def test_request_agent_model_call_and_the_next_services_agent_are_one_trace(
    pairs: Pairs, jaeger: Jaeger, wiring: Wiring
) -> None:
    first, second = pairs.of(wiring)
    answer = first.ask("/ask")
    spans = jaeger.trace(trace_of(answer["next"]["came"]["traceparent"]), spans=7)
    one, two = first.service, second.service
    assert chain(spans) == [
        (one, "fastapi", "GET /ask"),
        (one, "otel_agentbus", "invoke_agent asking"),
        (one, "otel_agentbus", "chat m"),
        (one, "httpx", "GET"),
        (two, "fastapi", "GET /answer"),
        (two, "otel_agentbus", "invoke_agent answering"),
        (two, "otel_agentbus", "execute_tool look up"),
    ]
    assert min(spans, key=lambda span: span.start_ns).parent_span_id is None


# -- joined by us ------------------------------------------------------------------------------------------------------


def test_without_any_instrumentation_inject_and_resume_join_them(pairs: Pairs, jaeger: Jaeger) -> None:
    first, second = pairs.of("plain")
    answer = first.ask("/ask", send="traceparent tracestate agentbus")
    found = answer["next"]
    assert (found["root"], found["parent"]) == (answer["root"], answer["root"])
    spans = jaeger.trace(trace_of(found["came"]["traceparent"]), spans=4)
    assert chain(spans) == [
        (first.service, "otel_agentbus", "invoke_agent asking"),
        (first.service, "otel_agentbus", "chat m"),
        (second.service, "otel_agentbus", "invoke_agent answering"),
        (second.service, "otel_agentbus", "execute_tool look up"),
    ]


def test_our_entry_alone_joins_a_tree_that_began_with_an_agent(pairs: Pairs, jaeger: Jaeger) -> None:
    first, second = pairs.of("plain")
    answer = first.ask("/ask", send="agentbus")
    found = answer["next"]
    assert list(found["came"]) == ["agentbus"]
    assert (found["root"], found["parent"]) == (answer["root"], answer["root"])
    spans = jaeger.trace(Ids().trace_id(answer["root"]), spans=4)
    assert [row[2] for row in chain(spans)] == [
        "invoke_agent asking",
        "chat m",
        "invoke_agent answering",
        "execute_tool look up",
    ]
    answering = next(span for span in spans if span.name == "invoke_agent answering")
    assert answering.resource["service.name"] == second.service
    assert answering.attributes["agentbus.invocation.root_id"] == answer["root"]


@pytest.mark.parametrize("wiring", ["sdk", "ours"])
def test_in_an_instrumented_service_resume_makes_it_a_sub_agent_of_the_call(
    pairs: Pairs, jaeger: Jaeger, wiring: Wiring
) -> None:
    first, second = pairs.of(wiring)
    answer = first.ask("/ask", send="agentbus")
    found = answer["next"]
    assert (found["root"], found["parent"]) == (answer["root"], answer["root"])
    spans = jaeger.trace(trace_of(found["came"]["traceparent"]), spans=6)
    by_name = {span.name: span for span in spans}
    above = {span.name: next((s.name for s in spans if s.span_id == span.parent_span_id), None) for span in spans}
    assert above == {
        "GET /ask": None,
        "invoke_agent asking": "GET /ask",
        "chat m": "invoke_agent asking",
        "GET": "chat m",
        "invoke_agent answering": "chat m",
        "execute_tool look up": "invoke_agent answering",
    }
    assert by_name["execute_tool look up"].resource["service.name"] == second.service


# -- streamed answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wiring", ["sdk", "ours"])
@pytest.mark.parametrize("path", ["/tell", "/told"])
def test_an_agent_in_a_streamed_answer_that_nobody_reads_to_its_end_is_cancelled(
    pairs: Pairs, jaeger: Jaeger, wiring: Wiring, path: str
) -> None:
    service, _ = pairs.of(wiring)
    parent = secrets.token_hex(16)
    headers = {"traceparent": f"00-{parent}-{secrets.token_hex(8)}-01"}
    with (
        httpx.Client(trust_env=False, timeout=30) as client,
        client.stream("GET", service.url + path, headers=headers) as answer,
    ):
        lines = answer.iter_lines()
        run_id = next(lines)
        assert [next(lines) for _ in range(2500)][-1] == "2"
    spans = jaeger.trace(parent, spans=3, timeout=20)
    assert [row[1:] for row in chain(spans)] == [
        ("fastapi", f"GET {path}"),
        ("otel_agentbus", "invoke_agent telling"),
        ("otel_agentbus", "chat m"),
    ]
    ours = [span for span in spans if span.scope == "otel_agentbus"]
    assert [span.attributes["agentbus.outcome"] for span in ours] == ["cancelled", "cancelled"]
    assert {span.attributes["agentbus.invocation.id"] for span in ours} == {run_id}
    assert service.ask("/ask")["next"]["parent"] is None  # and nothing of it is left behind


# -- sampled and unsampled parents -------------------------------------------------------------------------------------

STATE = "vendor=1,other=x:y"
#: Each sampler (its share is none), and the wiring in which it is tried.
SAMPLERS: dict[str, Wiring] = {
    "parentbased_always_on": "ours",
    "parentbased_always_off": "sdk",
    "parentbased_traceidratio": "ours",
    "traceidratio": "sdk",
}
#: Those that keep a trace in which nobody has decided before them.
KEEPING = "parentbased_always_on"
#: The one that asks no parent: what is told to it over HTTP only is the application's to decide, as for its requests.
DEAF = "traceidratio"


def names(spans: list[Span]) -> list[str]:
    return sorted(span.name for span in spans)


ASKED = ["GET", "GET /answer", "GET /ask", "chat m", "execute_tool look up"]
ASKED += ["invoke_agent answering", "invoke_agent asking"]
RESUMED = ["execute_tool look up", "invoke_agent answering"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_parent_from_outside_decides_whether_there_are_spans_and_metrics_count_anyway(
    start: Start, jaeger: Jaeger, collector: Collector, sampler: str
) -> None:
    service = start(SAMPLERS[sampler], OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG="0")
    expected: dict[str, list[str]] = {}
    for flags in (0x00, 0x02, 0x01, 0x03):
        for path in ("/ask", "/resumed"):
            parent = secrets.token_hex(16)
            headers = {"traceparent": f"00-{parent}-{secrets.token_hex(8)}-{flags:02x}", "tracestate": STATE}
            if path == "/resumed":
                headers["agentbus"] = "1;caller;root;;1;;a;a"
            answer = service.ask(path, headers)
            sent = answer["next"]["came"] if path == "/ask" else answer["onward"]
            heard = flags & 0x02 if path == "/ask" and sampler == DEAF else flags
            _, trace_id, _, sent_flags = sent["traceparent"].split("-")
            assert (trace_id, sent_flags, sent["tracestate"]) == (parent, f"{heard:02x}", STATE)
            expected[parent] = (ASKED if path == "/ask" else RESUMED) if heard & 1 else []
    for parent, spans in reversed(expected.items()):  # a sampled one was last: when it has come, no other is under way
        found = jaeger.trace(parent, spans=len(spans)) if spans else jaeger.spans(parent)
        assert names(found) == spans
        assert {span.trace_state for span in found} <= {STATE}
    counted = eventually(lambda: runs(collector, service), lambda found: sum(found.values()) >= 12, timeout=10)
    assert counted == {"asking": 4, "answering": 8}


def runs(collector: Collector, service: Service) -> dict[str, float]:
    found = collector.scrape().select("agentbus_agent_runs_total", job=service.service)
    return {sample.labels["gen_ai_agent_name"]: sample.value for sample in found}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_without_a_parent_the_sampler_decides(start: Start, jaeger: Jaeger, sampler: str) -> None:
    service = start(SAMPLERS[sampler], OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG="0")
    first = service.ask("/ask")["next"]["came"]["traceparent"]
    assert int(first[-2:], 16) & 1 == (sampler == KEEPING)
    sampled = secrets.token_hex(16)
    resumed = {"traceparent": f"00-{sampled}-{secrets.token_hex(8)}-01", "agentbus": "1;caller;root;;1;;a;a"}
    service.ask("/resumed", resumed)
    assert names(jaeger.trace(sampled, spans=2)) == RESUMED
    assert names(jaeger.spans(trace_of(first))) == (ASKED if sampler == KEEPING else [])
