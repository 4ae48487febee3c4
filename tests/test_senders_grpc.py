"""One attempt over gRPC: what every code means, that nothing is tried twice, and that a lost channel is replaced."""

from __future__ import annotations

import os
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc  # type: ignore[import-untyped, unused-ignore]
import pytest
from opentelemetry import context

from otel_agentbus.telemetry import export
from otel_agentbus.telemetry.otlp import Batch
from otel_agentbus.telemetry.senders.grpc import GrpcSender
from otel_agentbus.telemetry.senders.verdict import Sender, Verdict
from otel_agentbus.testing import wait_until
from tests.faulty_endpoint import (
    GARBAGE,
    HANG,
    OK,
    RESET,
    Fault,
    FaultyGrpc,
    FaultyHttp,
    code,
    rejecting,
)
from tests.receivers import Certificate, closed_port, in_a_process_of_its_own, make_certificate
from tests.sending import batch, closing, target

_UNAVAILABLE = "CANCELLED DEADLINE_EXCEEDED RESOURCE_EXHAUSTED ABORTED OUT_OF_RANGE UNAVAILABLE DATA_LOSS UNIMPLEMENTED"
_KINDS = {
    **dict.fromkeys([*_UNAVAILABLE.split(), "NOT_FOUND"], "unavailable"),
    **dict.fromkeys(["INTERNAL", "UNKNOWN"], "failed"),
    **dict.fromkeys(["UNAUTHENTICATED", "PERMISSION_DENIED"], "unauthorised"),
    **dict.fromkeys(["INVALID_ARGUMENT", "FAILED_PRECONDITION", "ALREADY_EXISTS"], "refused"),
}


def _to(endpoint: str, **changed: Any) -> AbstractContextManager[GrpcSender]:
    return closing(GrpcSender(target(endpoint, **changed)))


def test_every_code_has_been_thought_of() -> None:
    assert set(_KINDS) == {one.name for one in grpc.StatusCode} - {"OK"}


@pytest.mark.parametrize(("name", "kind"), _KINDS.items())
def test_what_a_code_means_and_that_it_is_asked_for_once(
    name: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with FaultyGrpc([code(name, "so it is")]) as endpoint, _to(endpoint.address) as sender:
        verdict = sender.send(batch())
        assert (verdict.kind, verdict.message) == (kind, f"gRPC {name}: so it is")
        assert sender.send(batch("next")).delivered
        assert len(endpoint.requests) == 2
    assert caplog.records == []


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        (OK, Verdict("delivered")),
        (rejecting(2, "too old"), Verdict("delivered", rejected=2, message="too old")),
        (rejecting(0, "nearly"), Verdict("delivered", message="nearly")),
        (code("UNAVAILABLE", "busy", 1.5), Verdict("unavailable", 0, "gRPC UNAVAILABLE: busy", 1.5)),
        (
            code("RESOURCE_EXHAUSTED", "quota", 60, bare_retry_info=True),
            Verdict("unavailable", 0, "gRPC RESOURCE_EXHAUSTED: quota", 60.0),
        ),
        (
            code("INVALID_ARGUMENT", "message larger than max (5 vs. 4)"),
            Verdict("too_large", message="gRPC INVALID_ARGUMENT: message larger than max (5 vs. 4)"),
        ),
    ],
)
def test_what_an_answer_says_beyond_its_code(fault: Fault, verdict: Verdict) -> None:
    with FaultyGrpc([fault]) as endpoint, _to(endpoint.address) as sender:
        assert sender.send(batch("one", "two", "three")) == verdict


def test_a_batch_larger_than_the_endpoint_takes_is_delivered_in_halves() -> None:
    whole = batch("one", "two", "three", text="x" * 1_000)
    with FaultyGrpc(max_bytes=2_500) as endpoint, _to(endpoint.address) as sender:
        assert sender.send(whole).kind == "too_large"
        assert [sender.send(half) for half in whole.halves()] == [Verdict("delivered")] * 2
        assert endpoint.names() == ["one", "two", "three"]


@pytest.mark.parametrize("compression", ["none", "gzip"])
@pytest.mark.parametrize("scheme", ["", "http://"])
def test_the_bytes_of_the_batch_arrive_with_the_headers(compression: str, scheme: str) -> None:
    made = batch("one", "two", text="é" * 500)
    headers = (("x-tenant", "mine"), ("authorization", "Bearer secret"))
    with FaultyGrpc() as endpoint:
        way = target(scheme + endpoint.address, protocol="grpc", compression=compression, headers=headers)
        with closing(GrpcSender(way)) as sender:
            assert sender.send(made).delivered
            assert sender.send(Batch(data=made.data)).delivered
        first, second = endpoint.requests
    assert (first.body, second.body) == (made.data, made.data)
    assert first.headers.items() >= dict(headers).items()
    assert first.headers["user-agent"].startswith("OTel-OTLP-Exporter-Python/")


def test_the_deadline_holds() -> None:
    with FaultyGrpc([HANG]) as endpoint, _to(endpoint.address, timeout=0.3) as sender:
        verdict = sender.send(batch())
        assert (verdict.kind, verdict.message.partition(":")[0]) == ("unavailable", "gRPC DEADLINE_EXCEEDED")
        assert sender.send(batch()).delivered


@pytest.mark.parametrize("fault", [HANG, GARBAGE, RESET], ids=lambda fault: fault.how)
def test_a_server_that_speaks_no_http_2_is_unavailable(fault: Fault) -> None:
    """It reads our HTTP/2 as the beginning of a bad HTTP/1 request, whatever it then says."""
    with FaultyHttp(default=fault) as endpoint, _to(f"127.0.0.1:{endpoint.port}", timeout=0.5) as sender:
        assert sender.send(batch()).kind == "unavailable"


def test_nobody_listening_is_unavailable() -> None:
    with closed_port() as port, closing(GrpcSender(target(f"127.0.0.1:{port}", timeout=5))) as sender:
        verdict = sender.send(batch())
    assert verdict.kind == "unavailable"
    assert "Connection refused" in verdict.message


def test_a_restarted_endpoint_is_found_again_at_once() -> None:
    """The channel's own backoff, which grows to minutes, is not waited for."""
    with FaultyGrpc() as endpoint, _to(endpoint.address, timeout=5) as sender:
        assert sender.send(batch("before")).delivered
        endpoint.stop()
        assert [sender.send(batch("lost")).kind for _ in range(6)] == ["unavailable"] * 6
        endpoint.start()
        assert sender.send(batch("after")).delivered
        assert endpoint.names() == ["before", "after"]


def test_shutdown_frees_a_call_under_way() -> None:
    verdicts: list[Verdict] = []
    with FaultyGrpc([HANG]) as endpoint:
        sender = GrpcSender(target(endpoint.address, timeout=300))
        thread = threading.Thread(target=lambda: verdicts.append(sender.send(batch())))
        thread.start()
        wait_until(lambda: len(endpoint.requests) == 1)
        sender.shutdown()
        thread.join(30)
        assert verdicts == [Verdict("unavailable", message="closed")]
        assert sender.send(batch()) == Verdict("unavailable", message="closed")
        sender.shutdown()
        assert len(endpoint.requests) == 1


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path)


def test_tls_with_the_given_authority_and_none_else(certificate: Certificate) -> None:
    with FaultyGrpc(certificate=certificate) as endpoint:
        way = target(f"https://{endpoint.address}", protocol="grpc", certificate=str(certificate.file))
        with closing(GrpcSender(way)) as trusting:
            assert trusting.send(batch("trusted")).delivered
        with closing(GrpcSender(target(f"https://{endpoint.address}", protocol="grpc", timeout=2))) as doubting:
            assert doubting.send(batch("doubted")).kind == "unavailable"
        assert endpoint.names() == ["trusted"]


def test_mutual_tls(certificate: Certificate) -> None:
    theirs = {"protocol": "grpc", "certificate": str(certificate.file), "timeout": 2}
    ours = {"client_certificate": str(certificate.file), "client_key": str(certificate.key)}
    with FaultyGrpc(certificate=certificate, authority=certificate) as endpoint:
        with closing(GrpcSender(target(f"https://{endpoint.address}", **theirs))) as nobody:
            assert nobody.send(batch("nobody's")).kind == "unavailable"
        with closing(GrpcSender(target(f"https://{endpoint.address}", **theirs, **ours))) as known:
            assert known.send(batch("known")).delivered
        assert endpoint.names() == ["known"]


def test_a_credential_plugin_makes_the_channel_credentials(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def credentials() -> grpc.ChannelCredentials:
        return grpc.ssl_channel_credentials(certificate.file.read_bytes())

    monkeypatch.setattr(export, "entry_points", lambda **_: [SimpleNamespace(load=lambda: credentials)])
    with FaultyGrpc(certificate=certificate) as endpoint:
        way = target(f"https://{endpoint.address}", protocol="grpc", credential_provider="mine")
        with closing(GrpcSender(way)) as sender:
            assert sender.send(batch()).delivered


def test_what_the_endpoint_echoes_of_our_headers_is_not_shown() -> None:
    headers = (("x-key", "Bearer hush-hush"),)
    faults = [code("UNAUTHENTICATED", "bad token hush-hush")]
    with FaultyGrpc(faults) as endpoint, _to(endpoint.address, headers=headers) as sender:
        assert sender.send(batch()) == Verdict("unauthorised", message="gRPC UNAUTHENTICATED: bad token ***")
        assert sender.name == f"otlp to {endpoint.address}"
        assert isinstance(sender, Sender)


def test_a_call_is_no_span_of_anybodys_instrumentation(monkeypatch: pytest.MonkeyPatch) -> None:
    suppressed: list[object] = []

    class Instrumentation(grpc.UnaryUnaryClientInterceptor):  # type: ignore[misc, unused-ignore]
        def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
            suppressed.append(context.get_value("suppress_instrumentation"))
            return continuation(details, request)

    plain = grpc.insecure_channel
    monkeypatch.setattr(
        grpc, "insecure_channel", lambda *given: grpc.intercept_channel(plain(*given), Instrumentation())
    )
    with FaultyGrpc([rejecting(1, "no"), code("INTERNAL", "x")]) as endpoint, _to(endpoint.address) as sender:
        assert sender.send(batch()) == Verdict("delivered", 1, "no")
        assert sender.send(batch()) == Verdict("failed", message="gRPC INTERNAL: x")
    assert (suppressed, context.get_value("suppress_instrumentation")) == ([True, True], None)


def test_what_cannot_be_sent_at_all_is_a_verdict() -> None:
    with closing(GrpcSender(target("127.0.0.1:9", headers=(("Not A Header", "x"),)))) as sender:
        assert sender.send(batch()).kind == "failed"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_sends_over_a_channel_of_its_own() -> None:
    forking = """
        import json, os
        from otel_agentbus.telemetry.senders.grpc import GrpcSender
        from tests.sending import batch, target

        sender = GrpcSender(target(os.environ["ENDPOINT"]))
        before = sender.send(batch("before")).kind
        child = os.fork()
        if child == 0:
            sender.renew()
            os._exit(0 if sender.send(batch("child")).delivered else 1)
        _, status = os.waitpid(child, 0)
        print(json.dumps([before, status, sender.send(batch("parent")).kind]))
    """
    with FaultyGrpc() as endpoint:
        assert in_a_process_of_its_own(forking, ENDPOINT=endpoint.address) == ["delivered", 0, "delivered"]
        assert endpoint.names() == ["before", "child", "parent"]
