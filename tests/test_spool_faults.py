"""The spool before real endpoints that misbehave, over both protocols: what is delivered, kept, refused, counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SpanExportResult

from otel_agentbus.settings import Settings
from otel_agentbus.targets import Target
from otel_agentbus.telemetry.spool import SpoolCounts, SpoolingSpanExporter, sender_to
from otel_agentbus.testing import wait_until

from .faulty_endpoint import (
    CLOSE,
    DRIP,
    DRIP_BODY,
    GARBAGE,
    HANG,
    OK,
    OK_GARBAGE,
    RESET,
    Fault,
    FaultyGrpc,
    FaultyHttp,
    code,
    rejecting,
    status,
)
from .spooling import for_ever, spans

__all__ = ["for_ever"]  # a fixture

pytestmark = pytest.mark.usefixtures("for_ever")
KEPT = {"taken": 3, "kept": 3, "spooled": 3}
DELIVERED = {"taken": 3, "delivered": 3}
REFUSED = {"taken": 3, "dead_lettered": 3}


@dataclass
class Case:
    """An endpoint with an exporter to it, whose time limit is short."""

    endpoint: Any
    exporter: SpoolingSpanExporter

    def export(self) -> bool:
        return self.exporter.export(spans("a", "b", "c")) is SpanExportResult.SUCCESS

    @property
    def counts(self) -> dict[str, Any]:
        counts = self.exporter.counts
        assert counts.balanced, counts
        told = {field.name: getattr(counts, field.name) for field in fields(SpoolCounts)}
        return {name: dict(v) if isinstance(v, Counter) else v for name, v in told.items() if v}

    @property
    def next_try_in(self) -> float:
        import time

        return self.exporter._courier.pace.next_at - time.monotonic()


def target(protocol: str, endpoint: Any, **more: Any) -> Target:
    where = endpoint.url if protocol == "http/protobuf" else f"http://{endpoint.address}"
    return Settings(traces_protocol=protocol, traces_endpoint=where, traces_timeout=1.5, **more).target("traces")


@pytest.fixture
def http(tmp_path: Path) -> Iterator[Case]:
    yield from case(FaultyHttp(), "http/protobuf", tmp_path)


@pytest.fixture
def grpc(tmp_path: Path) -> Iterator[Case]:
    yield from case(FaultyGrpc(), "grpc", tmp_path)


def case(endpoint: Any, protocol: str, directory: Path) -> Iterator[Case]:
    with endpoint:
        exporter = SpoolingSpanExporter.to(target(protocol, endpoint), directory, exit_timeout=0.5)
        try:
            yield Case(endpoint, exporter)
        finally:
            exporter.shutdown()


HTTP_KEEPS = {
    "hangs": HANG,
    "drips": DRIP,
    "drips its body": DRIP_BODY,
    "resets": RESET,
    "closes": CLOSE,
    "talks garbage": GARBAGE,
    "301": status(301, {"location": "http://127.0.0.1:1/"}),
    "307": status(307, {"location": "http://127.0.0.1:1/"}),
    "401": status(401),
    "403": status(403),
    "404": status(404),
    "408": status(408),
    "429": status(429),
    "500": status(500),
    "502": status(502),
    "503": status(503),
    "504": status(504),
}
GRPC_KEEPS = {
    "hangs": HANG,
    **{
        name: code(name)
        for name in (
            "UNAVAILABLE",
            "DEADLINE_EXCEEDED",
            "RESOURCE_EXHAUSTED",
            "ABORTED",
            "CANCELLED",
            "UNIMPLEMENTED",
            "INTERNAL",
            "UNAUTHENTICATED",
            "PERMISSION_DENIED",
        )
    },
}


def keeps_and_sends_again(case: Case, fault: Fault) -> None:
    case.endpoint.script(fault)
    assert not case.export()
    assert case.counts == KEPT
    case.endpoint.release()
    assert case.exporter.force_flush(10_000)
    assert case.counts == {"taken": 3, "kept": 3, "delivered": 3, "resent": 3}
    assert case.endpoint.names() == ["a", "b", "c"]
    assert len({arrived.body for arrived in case.endpoint.requests}) == 1  # byte for byte


@pytest.mark.parametrize("name", HTTP_KEEPS)
def test_over_http_it_keeps_what_is_not_taken_and_sends_it_again(http: Case, name: str) -> None:
    keeps_and_sends_again(http, HTTP_KEEPS[name])


@pytest.mark.parametrize("name", GRPC_KEEPS)
def test_over_grpc_it_keeps_what_is_not_taken_and_sends_it_again(grpc: Case, name: str) -> None:
    keeps_and_sends_again(grpc, GRPC_KEEPS[name])


@pytest.mark.parametrize("number", [400, 415, 422])
def test_over_http_what_is_refused_is_a_dead_letter(http: Case, number: int) -> None:
    http.endpoint.script(status(number, body=b"no such thing"))
    assert not http.export()
    assert http.counts == REFUSED
    assert http.export()


def test_over_grpc_what_is_refused_is_a_dead_letter(grpc: Case) -> None:
    grpc.endpoint.script(code("INVALID_ARGUMENT", "no such thing"))
    assert not grpc.export()
    assert grpc.counts == REFUSED
    assert grpc.export()


def test_over_http_413_is_halved_until_it_fits(http: Case) -> None:
    http.endpoint.max_bytes = 110
    assert http.export()
    assert http.endpoint.names() == ["a", "b", "c"]
    assert http.counts == DELIVERED


def test_over_http_a_single_span_that_is_too_large_is_a_dead_letter(http: Case) -> None:
    http.endpoint.max_bytes = 1_000
    assert http.exporter.export(spans("a", "b" * 2_000, "c")) is SpanExportResult.FAILURE
    assert http.endpoint.names() == ["a", "c"]
    assert http.counts == {"taken": 3, "delivered": 2, "dead_lettered": 1}


def test_over_grpc_a_message_larger_than_allowed_is_halved(tmp_path: Path) -> None:
    for grpc in case(FaultyGrpc(max_bytes=1_000), "grpc", tmp_path):
        assert grpc.exporter.export(spans("a", "b" * 2_000, "c")) is SpanExportResult.FAILURE
        assert grpc.endpoint.names() == ["a", "c"]
        assert grpc.counts == {"taken": 3, "delivered": 2, "dead_lettered": 1}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_rejected_spans_are_counted(protocol: str, request: pytest.FixtureRequest) -> None:
    case: Case = request.getfixturevalue(protocol)
    case.endpoint.script(rejecting(2, "no room"))
    assert case.export()
    assert case.counts == {"taken": 3, "delivered": 1, "rejected": 2}


def test_an_answer_that_is_no_protobuf_is_still_success(http: Case) -> None:
    http.endpoint.script(OK_GARBAGE, OK)
    assert http.export()
    assert http.counts == DELIVERED


def test_over_http_retry_after_is_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from otel_agentbus.telemetry.spool import pace

    monkeypatch.setattr(pace, "FIRST_S", 0.001)
    for http in case(FaultyHttp([status(429, {"retry-after": "77"})]), "http/protobuf", tmp_path):
        assert not http.export()
        assert 70 < http.next_try_in <= 77
        assert http.counts == KEPT


def test_over_grpc_retry_info_is_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from otel_agentbus.telemetry.spool import pace

    monkeypatch.setattr(pace, "FIRST_S", 0.001)
    for grpc in case(FaultyGrpc([code("UNAVAILABLE", retry_after=77.0)]), "grpc", tmp_path):
        assert not grpc.export()
        assert 70 < grpc.next_try_in <= 77
        assert grpc.counts == KEPT


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_endpoint_that_is_down_gets_everything_in_order_when_it_is_up(
    protocol: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from otel_agentbus.telemetry.spool import pace

    monkeypatch.setattr(pace, "FIRST_S", 0.01)
    monkeypatch.setattr(pace, "LONGEST_S", 0.02)
    case: Case = request.getfixturevalue(protocol)
    case.endpoint.stop()
    names = [str(number) for number in range(30)]
    for name in names:
        case.exporter.export(spans(name))
    assert case.counts == {"taken": 30, "kept": 30, "spooled": 30}
    case.endpoint.start()
    assert wait_until(lambda: case.exporter.spooled == 0, 10)
    assert case.endpoint.names() == names
    assert case.counts == {"taken": 30, "kept": 30, "delivered": 30, "resent": 30}


def test_only_the_same_endpoint_protocol_and_headers_get_what_is_left(tmp_path: Path) -> None:
    with FaultyHttp(default=status(503)) as endpoint:

        def exporter(**more: Any) -> SpoolingSpanExporter:
            return SpoolingSpanExporter.to(target("http/protobuf", endpoint, **more), tmp_path, exit_timeout=0.5)

        first = exporter(traces_headers="api-key=ours")
        first.export(spans("secret"))
        first.shutdown()
        endpoint.default = OK
        endpoint.requests.clear()
        for more in ({"traces_headers": "api-key=theirs"}, {}):
            other = exporter(**more)
            assert other.directory != first.directory
            other.shutdown()
        assert endpoint.requests == []
        again = exporter(traces_headers="Api-Key=ours")
        assert again.directory == first.directory
        assert wait_until(lambda: again.spooled == 0 and again.counts.delivered == 1)
        again.shutdown()
        assert [arrived.headers["api-key"] for arrived in endpoint.requests] == ["ours"]


def test_the_sender_is_that_of_the_protocol() -> None:
    for protocol, name in (("http/protobuf", "HttpSender"), ("grpc", "GrpcSender")):
        made = sender_to(Settings(traces_protocol=protocol).target("traces"))
        assert type(made).__name__ == name
        made.shutdown()
