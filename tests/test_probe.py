"""The probe, against real receivers on the loopback interface."""

from __future__ import annotations

from pathlib import Path

import grpc  # type: ignore[import-untyped, unused-ignore]
import pytest
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped, unused-ignore]

from otel_agentbus.settings import Settings
from otel_agentbus.telemetry.probe import Outcome, probe, spoken
from otel_agentbus.values import Signal
from tests.receivers import (
    Certificate,
    ExportMetricsServiceResponse,
    ExportTraceServiceResponse,
    GrpcReceiver,
    GrpcReply,
    HttpReceiver,
    Reply,
    closed_port,
    forget_environment,
    make_certificate,
)

PROTOBUF = {"content-type": "application/x-protobuf"}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path)


def answers(timeout: float = 10.0, **arguments: object) -> dict[Signal, tuple[Outcome, str, str]]:
    """Outcome, code and words of the probes that these settings ask for."""
    targets = [Settings(**arguments).target(signal) for signal in ("traces", "metrics")]
    found = probe(targets, {"service.name": "shop"}, timeout)
    return {answer.signal: (answer.outcome, answer.code, answer.words) for answer in found}


def test_one_span_and_one_data_point_arrive_over_http_with_headers_and_compression() -> None:
    with HttpReceiver() as receiver:
        assert answers(endpoint=receiver.url, headers="authorization=Bearer%20key", compression="gzip") == {
            "traces": ("accepted", "200", ""),
            "metrics": ("accepted", "200", ""),
        }
        traces, metrics = receiver.of("/v1/traces"), receiver.of("/v1/metrics")
    assert (len(traces), len(metrics)) == (1, 1)
    for request in (*traces, *metrics):
        assert request.headers["authorization"] == "Bearer key"
        assert request.headers["content-encoding"] == "gzip"
        assert request.headers["content-type"] == "application/x-protobuf"
    of_resource = traces[0].message.resource_spans[0]
    assert {item.key: item.value.string_value for item in of_resource.resource.attributes} == {"service.name": "shop"}
    span = of_resource.scope_spans[0].spans[0]
    assert (span.name, len(span.trace_id), len(span.span_id)) == ("otel-agentbus doctor", 16, 8)
    metric = metrics[0].message.resource_metrics[0].scope_metrics[0].metrics[0]
    assert (metric.name, metric.gauge.data_points[0].as_int) == ("agentbus.doctor.probe", 1)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (Reply(400, b"bad bytes"), ("refused", "400", "bad bytes")),
        (Reply(401), ("refused", "401", "Unauthorized")),
        (Reply(404, b"404 page not found\n"), ("refused", "404", "404 page not found")),
        (Reply(404, b"<html><b>not</b> here</html>", {"content-type": "text/html"}), ("refused", "404", "not here")),
        (Reply(503, Status(message="slow down").SerializeToString(), PROTOBUF), ("refused", "503", "slow down")),
        (Reply(400, b'{"message": "no, \\u001b[31mred"}', {"content-type": "application/json"}), None),
        (Reply(400, b"[]", {"content-type": "application/json"}), ("refused", "400", "[]")),
        (Reply(301, headers={"location": "https://other/"}), ("redirected", "301", "https://other/")),
        (Reply(204), ("accepted", "204", "")),
        (Reply(200, b"\xff\xff", PROTOBUF), ("accepted", "200", "")),
        (Reply(400, b"x" * 5_000), ("refused", "400", "x" * 299 + "…")),
    ],
)
def test_the_answer_over_http_is_told_with_its_status_and_words(
    reply: Reply, expected: tuple[Outcome, str, str] | None
) -> None:
    with HttpReceiver({"/v1/traces": reply}) as receiver:
        found = answers(endpoint=receiver.url)
    assert found == {
        "traces": expected or ("refused", "400", "no, [31mred"),
        "metrics": ("accepted", "200", ""),
    }


def test_a_partial_success_over_http_is_told_with_its_count_and_words() -> None:
    spans, points = ExportTraceServiceResponse(), ExportMetricsServiceResponse()
    spans.partial_success.rejected_spans, spans.partial_success.error_message = 1, "too old"
    points.partial_success.rejected_data_points, points.partial_success.error_message = 1, "no gauges"
    replies = {
        "/v1/traces": Reply(200, spans.SerializeToString(), PROTOBUF),
        "/v1/metrics": Reply(200, points.SerializeToString(), PROTOBUF),
    }
    with HttpReceiver(replies) as receiver:
        assert answers(endpoint=receiver.url) == {
            "traces": ("partial", "200", "too old"),
            "metrics": ("partial", "200", "no gauges"),
        }


def test_an_echoed_secret_is_not_repeated() -> None:
    refusing = Reply(401, b"the key sk-12345678 of Bearer sk-12345678 is unknown")
    with HttpReceiver({"/v1/traces": refusing}) as receiver:
        found = answers(endpoint=receiver.url, headers="authorization=Bearer%20sk-12345678")
    assert found["traces"] == ("refused", "401", "the key *** of *** is unknown")


def test_a_hanging_endpoint_is_a_timeout() -> None:
    with HttpReceiver({"/v1/traces": Reply(hang=True)}) as receiver:
        found = answers(0.3, endpoint=receiver.url)
    assert found["traces"][0] == "timeout"
    with GrpcReceiver({"metrics": GrpcReply(hang=True)}) as by_grpc:
        found = answers(1.0, endpoint=f"http://{by_grpc.address}", protocol="grpc")
    assert (found["traces"][0], found["metrics"][0]) == ("accepted", "timeout")


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_closed_port_is_a_refused_connection(protocol: str) -> None:
    with closed_port() as port:
        found = answers(endpoint=f"http://127.0.0.1:{port}", protocol=protocol)
    assert {outcome for outcome, _, _ in found.values()} == {"closed"}


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_an_unknown_host_is_unresolved(protocol: str) -> None:
    found = answers(endpoint="http://no-such-host.invalid:4318", protocol=protocol)
    assert {outcome for outcome, _, _ in found.values()} <= {"unresolved", "timeout"}


def test_one_span_and_one_data_point_arrive_over_grpc() -> None:
    with GrpcReceiver() as receiver:
        assert answers(
            endpoint=receiver.address, protocol="grpc", insecure=True, headers="x-key=1", compression="gzip"
        ) == {"traces": ("accepted", "OK", ""), "metrics": ("accepted", "OK", "")}
        received = {signal: (message, metadata) for signal, message, metadata in receiver.received}
    assert received["traces"][0].resource_spans[0].scope_spans[0].spans[0].name == "otel-agentbus doctor"
    assert received["metrics"][1]["x-key"] == "1"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (GrpcReply(rejected=1, message="too old"), ("partial", "OK", "too old")),
        (GrpcReply(code=grpc.StatusCode.UNAUTHENTICATED, message="who?"), ("refused", "UNAUTHENTICATED", "who?")),
        (GrpcReply(code=grpc.StatusCode.UNAVAILABLE, message="later"), ("broken", "UNAVAILABLE", "later")),
    ],
)
def test_the_answer_over_grpc_is_told_with_its_code_and_words(
    reply: GrpcReply, expected: tuple[Outcome, str, str]
) -> None:
    with GrpcReceiver({"traces": reply, "metrics": reply}) as receiver:
        found = answers(endpoint=f"http://{receiver.address}", protocol="grpc")
    assert found == {"traces": expected, "metrics": expected}


def test_a_grpc_receiver_of_spans_only_does_not_implement_metrics() -> None:
    with GrpcReceiver(signals=("traces",)) as receiver:
        found = answers(endpoint=f"http://{receiver.address}", protocol="grpc")
    assert found["traces"] == ("accepted", "OK", "")
    assert found["metrics"][:2] == ("refused", "UNIMPLEMENTED")


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_tls_works_with_the_authority_and_fails_without(certificate: Certificate, protocol: str) -> None:
    with HttpReceiver(certificate=certificate) as by_http, GrpcReceiver(certificate=certificate) as by_grpc:
        url = f"https://{by_grpc.address}" if protocol == "grpc" else by_http.url
        trusting = answers(endpoint=url, protocol=protocol, certificate=str(certificate.file))
        doubting = answers(endpoint=url, protocol=protocol)
    assert {outcome for outcome, _, _ in trusting.values()} == {"accepted"}
    assert {outcome for outcome, _, _ in doubting.values()} == {"tls"}


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_tls_to_a_plain_text_port_fails_as_tls(protocol: str) -> None:
    with HttpReceiver() as by_http, GrpcReceiver() as by_grpc:
        address = by_grpc.address if protocol == "grpc" else f"127.0.0.1:{by_http.port}"
        found = answers(endpoint=f"https://{address}", protocol=protocol)
    assert {outcome for outcome, _, _ in found.values()} == {"tls"}


def test_a_port_is_told_by_what_it_speaks() -> None:
    with HttpReceiver() as by_http, GrpcReceiver() as by_grpc, closed_port() as nobody:
        assert spoken(by_http.url, 5) == "http/1"
        assert spoken(by_grpc.address, 5) == "http/2"
        assert spoken(f"http://127.0.0.1:{nobody}/v1/traces", 5) is None


def test_crossed_ports_are_observed() -> None:
    with HttpReceiver() as by_http, GrpcReceiver() as by_grpc:
        to_grpc = probe([Settings(endpoint=f"http://{by_grpc.address}").target("traces")], {}, 5)
        to_http = probe([Settings(endpoint=by_http.url, protocol="grpc").target("traces")], {}, 5)
    assert [(answer.outcome, answer.speaks) for answer in to_grpc] == [("broken", "http/2")]
    assert [(answer.outcome, answer.speaks) for answer in to_http] == [("broken", "http/1")]
