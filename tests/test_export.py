"""The exporters: what the variables say, arriving at real receivers, and what is counted as delivered and lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc  # type: ignore[import-untyped, unused-ignore]
import pytest
import requests
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from otel_agentbus._version import __version__
from otel_agentbus.settings import Settings
from otel_agentbus.telemetry import export
from otel_agentbus.telemetry.export import CountingMetricExporter, Delivery
from otel_agentbus.telemetry.providers import Pipeline, build
from otel_agentbus.telemetry.ways import FATES
from tests.receivers import (
    Certificate,
    ExportMetricsServiceResponse,
    ExportTraceServiceResponse,
    GrpcReceiver,
    GrpcReply,
    HttpReceiver,
    Reply,
    closed_port,
    emit,
    flush,
    forget_environment,
    make_certificate,
    shut_down,
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path)


@pytest.fixture
def built() -> Iterator[list[Pipeline]]:
    """Pipelines that are shut down after the test."""
    pipelines: list[Pipeline] = []
    yield pipelines
    for pipeline in pipelines:
        pipeline.cut()
        shut_down(pipeline)


@pytest.mark.parametrize("compression", ["none", "gzip", "deflate", ""])
@pytest.mark.parametrize("way", ["base", "signal"])
def test_spans_and_metrics_arrive_over_http(
    monkeypatch: pytest.MonkeyPatch, built: list[Pipeline], way: str, compression: str
) -> None:
    with HttpReceiver() as receiver:
        if way == "base":
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20key,x-a=1")
        else:
            for signal in ("traces", "metrics"):
                prefix = f"OTEL_EXPORTER_OTLP_{signal.upper()}"
                monkeypatch.setenv(f"{prefix}_ENDPOINT", f"{receiver.url}/v1/{signal}")
                monkeypatch.setenv(f"{prefix}_HEADERS", "Authorization=Bearer%20key,x-a=1")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", compression)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
        pipeline = build(Settings())
        built.append(pipeline)
        emit(pipeline)
        assert flush(pipeline)
        assert [(item.signal, item.delivered, item.failed) for item in pipeline.deliveries] == [("metrics", 1, 0)]
        assert fates(pipeline) == {"exported": 1}
        traces, metrics = receiver.of("/v1/traces"), receiver.of("/v1/metrics")
    assert [len(traces), len(metrics)] == [1, 1]
    for request in (*traces, *metrics):
        assert (request.headers["authorization"], request.headers["x-a"]) == ("Bearer key", "1")
        assert request.headers["content-type"] == "application/x-protobuf"
        assert request.headers.get("content-encoding", "none") == (compression or "none")
    resource = {item.key: item.value.string_value for item in traces[0].message.resource_spans[0].resource.attributes}
    assert resource.items() >= {
        ("service.name", "shop"),
        ("telemetry.distro.name", "otel_agentbus"),
        ("telemetry.distro.version", __version__),
    }
    assert traces[0].message.resource_spans[0].scope_spans[0].spans[0].name == "span 0"
    assert metrics[0].message.resource_metrics[0].scope_metrics[0].metrics[0].name == "counted"
    assert (
        traces[0].message.resource_spans[0].resource.attributes
        == metrics[0].message.resource_metrics[0].resource.attributes
    )


@pytest.mark.parametrize("compression", ["none", "gzip", ""])
@pytest.mark.parametrize("way", ["base", "signal", "bare"])
def test_spans_and_metrics_arrive_over_grpc(
    monkeypatch: pytest.MonkeyPatch, built: list[Pipeline], way: str, compression: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20key,x-a=1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", compression)
    with GrpcReceiver() as receiver:
        if way == "signal":
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"http://{receiver.address}")
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", f"http://{receiver.address}/ignored")
        elif way == "base":
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://{receiver.address}")
        else:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.address)
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_INSECURE", "true")
        pipeline = build(Settings())
        built.append(pipeline)
        emit(pipeline)
        assert flush(pipeline)
        received = list(receiver.received)
    assert [signal for signal, _, _ in received] == ["traces", "metrics"]
    for _, _, metadata in received:
        assert (metadata["authorization"], metadata["x-a"]) == ("Bearer key", "1")
    assert received[0][1].resource_spans[0].scope_spans[0].spans[0].name == "span 0"
    assert received[1][1].resource_metrics[0].scope_metrics[0].metrics[0].name == "counted"


def test_one_signal_may_go_over_grpc_and_the_other_over_http(built: list[Pipeline]) -> None:
    with HttpReceiver() as by_http, GrpcReceiver() as by_grpc:
        pipeline = build(
            Settings(
                traces_protocol="grpc",
                traces_endpoint=f"http://{by_grpc.address}",
                metrics_endpoint=f"{by_http.url}/custom/path",
            )
        )
        built.append(pipeline)
        emit(pipeline)
        assert flush(pipeline)
        assert [signal for signal, _, _ in by_grpc.received] == ["traces"]
        assert [request.path for request in by_http.received] == ["/custom/path"]
        assert pipeline.endpoints == {
            "traces": f"http://{by_grpc.address}",
            "metrics": f"{by_http.url}/custom/path",
        }


@pytest.mark.parametrize("headers", [{"x-new": "1"}, {}])
@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_headers_given_as_argument_keep_those_of_the_environment_from_leaving(
    monkeypatch: pytest.MonkeyPatch, built: list[Pipeline], protocol: str, headers: dict[str, str]
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=for-another-endpoint")
    with HttpReceiver() as by_http, GrpcReceiver() as by_grpc:
        endpoint = f"http://{by_grpc.address}" if protocol == "grpc" else by_http.url
        pipeline = build(Settings(protocol=protocol, endpoint=endpoint, headers=headers))
        built.append(pipeline)
        emit(pipeline)
        assert flush(pipeline)
        sent = [metadata for _, _, metadata in by_grpc.received] + [request.headers for request in by_http.received]
    assert len(sent) == 2
    for received in sent:
        assert "authorization" not in received
        assert received.items() >= headers.items()


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_credential_plug_in_makes_the_session_or_the_channel_credentials(
    monkeypatch: pytest.MonkeyPatch, certificate: Certificate, built: list[Pipeline], protocol: str
) -> None:
    def credentials() -> Any:
        if protocol == "grpc":
            return grpc.ssl_channel_credentials(certificate.file.read_bytes())
        session = requests.Session()
        session.auth = ("user", "from the plug-in")
        return session

    monkeypatch.setenv(f"OTEL_PYTHON_EXPORTER_OTLP_{protocol[:4].upper()}_CREDENTIAL_PROVIDER", "mine")
    monkeypatch.setattr(export, "entry_points", lambda **_: [SimpleNamespace(load=lambda: credentials)])
    with HttpReceiver({"/v1/traces": Reply(301)}) as by_http, GrpcReceiver(certificate=certificate) as by_grpc:
        endpoint = f"https://{by_grpc.address}" if protocol == "grpc" else by_http.url
        pipeline = build(Settings(protocol=protocol, endpoint=endpoint))
        built.append(pipeline)
        emit(pipeline)
        assert flush(pipeline) is (protocol == "grpc")
        assert len(by_grpc.received) + len(by_http.received) >= 2
    if protocol != "grpc":
        assert all(request.headers["authorization"].startswith("Basic ") for request in by_http.received)
        assert fates(pipeline) == {"spooled": 1}  # a redirect is none of its successes
        assert [delivery.failed for delivery in pipeline.deliveries] == [0]


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_tls_uses_the_given_authority(certificate: Certificate, built: list[Pipeline], protocol: str) -> None:
    with HttpReceiver(certificate=certificate) as by_http, GrpcReceiver(certificate=certificate) as by_grpc:
        endpoint = f"https://{by_grpc.address}" if protocol == "grpc" else by_http.url
        trusting = build(Settings(protocol=protocol, endpoint=endpoint, certificate=str(certificate.file)))
        built.append(trusting)
        emit(trusting)
        assert flush(trusting)
        assert len(by_grpc.received) + len(by_http.received) == 2


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_an_empty_certificate_variable_does_not_switch_verification_off(
    monkeypatch: pytest.MonkeyPatch, certificate: Certificate, built: list[Pipeline], protocol: str
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "")
    with HttpReceiver(certificate=certificate) as by_http, GrpcReceiver(certificate=certificate) as by_grpc:
        endpoint = f"https://{by_grpc.address}" if protocol == "grpc" else by_http.url
        pipeline = build(Settings(protocol=protocol, endpoint=endpoint, timeout=0.5, metrics_exporter="none"))
        built.append(pipeline)
        emit(pipeline)
        assert not flush(pipeline)
        assert fates(pipeline) == {"spooled": 1}
        assert by_http.received == []
        assert by_grpc.received == []


def fates(pipeline: Pipeline) -> dict[str, int]:
    """What became of the spans of the one way out, where it is not nothing."""
    account = pipeline.ways[0].account()
    assert account["balance"] == 0
    found: dict[str, int] = {fate: account[fate] for fate in FATES if account[fate]}
    found.update(account["dropped"])
    return found


def sent(settings: Settings, built: list[Pipeline], spans: int) -> tuple[bool, dict[str, int]]:
    pipeline = build(settings)
    built.append(pipeline)
    emit(pipeline, spans)
    return flush(pipeline), fates(pipeline)


@pytest.mark.parametrize(
    ("status", "fate"),
    [
        (301, "spooled"),
        (307, "spooled"),
        (400, "dead_lettered"),
        (401, "spooled"),
        (404, "spooled"),
        (500, "spooled"),
        (503, "spooled"),
    ],
)
def test_what_an_http_endpoint_refuses_or_redirects_is_kept(built: list[Pipeline], status: int, fate: str) -> None:
    with HttpReceiver() as elsewhere:
        refusing = Reply(status, headers={"location": f"{elsewhere.url}/v1/traces"})
        with HttpReceiver({"/v1/traces": refusing}) as receiver:
            settings = Settings(endpoint=receiver.url, metrics_exporter="none", timeout=0.5)
            assert sent(settings, built, 3) == (False, {fate: 3})
        assert elsewhere.received == []


@pytest.mark.parametrize("as_json", [False, True])
def test_a_partial_success_over_http_is_counted_and_logged_once(
    built: list[Pipeline], caplog: pytest.LogCaptureFixture, as_json: bool
) -> None:
    spans, points = ExportTraceServiceResponse(), ExportMetricsServiceResponse()
    spans.partial_success.rejected_spans, spans.partial_success.error_message = 2, "too old"
    points.partial_success.rejected_data_points = 1
    kind = {"content-type": "application/json" if as_json else "application/x-protobuf"}
    replies = {
        "/v1/traces": Reply(200, spans.SerializeToString(), kind),
        "/v1/metrics": Reply(200, points.SerializeToString(), kind),
    }
    if as_json:
        said = {"partialSuccess": {"rejectedSpans": "2", "errorMessage": "too old"}}
        replies["/v1/traces"] = Reply(200, json.dumps(said).encode(), kind)
        replies["/v1/metrics"] = Reply(200, b'{"partialSuccess": {"rejectedDataPoints": 1}}', kind)
    with HttpReceiver(replies) as receiver:
        flushed, counted = sent(Settings(endpoint=receiver.url), built, 5)
        assert flush(built[0]) is False  # metrics are sent again, and refused again
    assert flushed is False
    assert counted == {"exported": 3, "rejected": 2}
    points_sent = built[0].deliveries[0]
    assert (points_sent.delivered, points_sent.rejected, points_sent.failed) == (0, 2, 0)
    ours = [record.getMessage() for record in caplog.records if record.name == "otel_agentbus"]
    assert ours == [f"{receiver.url}/v1/metrics rejected 1 of the metrics: "]
    assert ["too old" in record.getMessage() for record in caplog.records].count(True) == 1


@pytest.mark.parametrize("body", [b"\xff\xff", b"<html>ok</html>"])
def test_an_answer_that_cannot_be_read_counts_as_delivered(built: list[Pipeline], body: bytes) -> None:
    with HttpReceiver({"/v1/traces": Reply(200, body)}) as receiver:
        found = sent(Settings(endpoint=receiver.url, metrics_exporter="none"), built, 2)
    assert found == (True, {"exported": 2})


def test_what_a_grpc_endpoint_refuses_is_kept(built: list[Pipeline]) -> None:
    refusing = {"traces": GrpcReply(code=grpc.StatusCode.PERMISSION_DENIED, message="no")}
    with GrpcReceiver(refusing, signals=("traces",)) as receiver:
        settings = Settings(protocol="grpc", endpoint=f"http://{receiver.address}")
        found = sent(settings, built, 3)
    assert found == (False, {"spooled": 3})
    assert [(item.signal, item.delivered, item.failed) for item in built[0].deliveries] == [("metrics", 0, 1)]


def test_what_nobody_listens_to_is_kept(built: list[Pipeline]) -> None:
    with closed_port() as port:
        settings = Settings(endpoint=f"http://127.0.0.1:{port}", metrics_exporter="none", timeout=0.2)
        found = sent(settings, built, 3)
    assert found == (False, {"spooled": 3})


def test_cut_ends_a_shutdown_that_waits_for_the_metrics_endpoint() -> None:
    """Between two attempts the SDK's exporter waits for seconds, here within a minute that it is allowed."""
    with HttpReceiver({"/v1/metrics": Reply(503)}) as receiver:
        pipeline = build(Settings(endpoint=receiver.url, timeout=60))
        emit(pipeline)
        closing = threading.Thread(target=pipeline.shut_down, args=(60,))
        closing.start()
        while not receiver.received:
            closing.join(0.01)
        pipeline.cut()
        closing.join(20)
        assert not closing.is_alive()
        points = pipeline.deliveries[0]
    assert (points.delivered, points.failed) == (0, 1)


def test_shutdown_sends_what_is_queued_and_ends_the_threads() -> None:
    with HttpReceiver() as receiver:
        before = set(threading.enumerate())
        pipeline = build(Settings(endpoint=receiver.url))
        emit(pipeline, 2)
        shut_down(pipeline, 10)
        assert fates(pipeline) == {"exported": 2}
        assert [(item.delivered, item.failed) for item in pipeline.deliveries] == [(1, 0)]
    assert {thread.name for thread in set(threading.enumerate()) - before if "Otel" in thread.name} == set()


def test_a_raising_exporter_is_counted_and_the_error_passed_on() -> None:
    class Raising:
        _preferred_temporality = None
        _preferred_aggregation = None

        def export(self, *_: object, **__: object) -> Any:
            raise RuntimeError("broken")

    reading = InMemoryMetricReader()
    meters = MeterProvider([reading], shutdown_on_exit=False)
    meters.get_meter("m").create_counter("c").add(1)
    data = reading.get_metrics_data()
    assert data is not None
    points = CountingMetricExporter(Delivery("metrics", "otlp", "e"), lambda _: Raising())  # type: ignore[arg-type, return-value]
    with pytest.raises(RuntimeError):
        points.export(data)
    assert points.delivery.failed == 1
