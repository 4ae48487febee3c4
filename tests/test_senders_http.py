"""One attempt over HTTP: what every answer means, that nothing is tried twice, and that the deadline holds."""

from __future__ import annotations

import gc
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from opentelemetry import context as otel_context

from otel_agentbus.telemetry import export
from otel_agentbus.telemetry.otlp import Batch
from otel_agentbus.telemetry.senders.answers import retry_after
from otel_agentbus.telemetry.senders.http import HttpSender
from otel_agentbus.telemetry.senders.verdict import Sender, Verdict
from otel_agentbus.testing import wait_until
from tests.faulty_endpoint import (
    CLOSE,
    DRIP,
    DRIP_BODY,
    GARBAGE,
    HANG,
    OK,
    OK_GARBAGE,
    RESET,
    Fault,
    FaultyHttp,
    rejecting,
    status,
)
from tests.receivers import Certificate, closed_port, in_a_process_of_its_own, make_certificate
from tests.sending import batch, closing, target

_JSON = {"content-type": "application/json"}

_MEANS = [
    (OK, Verdict("delivered")),
    (status(202), Verdict("delivered")),
    (OK_GARBAGE, Verdict("delivered")),
    (status(200, {}, b"x" * 3_000_000), Verdict("delivered")),
    (rejecting(2, "too old"), Verdict("delivered", rejected=2, message="too old")),
    (rejecting(0, "nearly too old"), Verdict("delivered", message="nearly too old")),
    (
        status(200, _JSON, b'{"partialSuccess":{"rejectedSpans":"2","errorMessage":"no"}}'),
        Verdict("delivered", 2, "no"),
    ),
    (
        status(301, {"location": "https://elsewhere/v1/traces"}),
        Verdict("unavailable", message="HTTP 301: a redirect to https://elsewhere/v1/traces is not followed"),
    ),
    (status(307), Verdict("unavailable", message="HTTP 307: a redirect to elsewhere is not followed")),
    (
        status(400, _JSON, b'{"code":3,"message":"no such field"}'),
        Verdict("refused", message="HTTP 400: no such field"),
    ),
    (
        status(400, {}, b"http: request body too large"),
        Verdict("too_large", message="HTTP 400: http: request body too large"),
    ),
    (status(401), Verdict("unauthorised", message="HTTP 401: Unauthorized")),
    (status(403), Verdict("unauthorised", message="HTTP 403: Forbidden")),
    (status(404), Verdict("unavailable", message="HTTP 404: Not Found")),
    (status(405), Verdict("unavailable", message="HTTP 405: Method Not Allowed")),
    (status(407), Verdict("unauthorised", message="HTTP 407: Proxy Authentication Required")),
    (status(408), Verdict("unavailable", message="HTTP 408: Request Timeout")),
    (status(413, {}, b"4 MiB"), Verdict("too_large", message="HTTP 413: 4 MiB")),
    (status(415), Verdict("refused", message="HTTP 415: Unsupported Media Type")),
    (status(418), Verdict("failed", message="HTTP 418: I'm a Teapot")),
    (status(422, {}, b"no ids"), Verdict("refused", message="HTTP 422: no ids")),
    (status(429, {"retry-after": "7"}), Verdict("unavailable", 0, "HTTP 429: Too Many Requests", 7.0)),
    (status(500), Verdict("failed", message="HTTP 500: Internal Server Error")),
    (status(502), Verdict("unavailable", message="HTTP 502: Bad Gateway")),
    (status(503, {"retry-after": "0.5"}), Verdict("unavailable", 0, "HTTP 503: Service Unavailable", 0.5)),
    (status(504), Verdict("unavailable", message="HTTP 504: Gateway Timeout")),
    (RESET, Verdict("unavailable", message="ConnectionError: [Errno 104] Connection reset by peer")),
    (CLOSE, Verdict("unavailable", message="ConnectionError: Remote end closed connection without response")),
    (GARBAGE, Verdict("unavailable", message="ConnectionError: this is no HTTP at all")),
]


@pytest.mark.parametrize(("fault", "verdict"), _MEANS, ids=lambda value: getattr(value, "message", "") or "fault")
def test_what_an_answer_means_and_that_it_is_asked_for_once(
    fault: Fault, verdict: Verdict, caplog: pytest.LogCaptureFixture
) -> None:
    with FaultyHttp([fault]) as endpoint, closing(HttpSender(target(endpoint.url))) as sender:
        assert sender.send(batch("one", "two", "three")) == verdict
        assert len(endpoint.requests) == 1
    assert caplog.records == []  # the one who asked says what is to be said


def test_nobody_listening_is_unavailable(caplog: pytest.LogCaptureFixture) -> None:
    with closed_port() as port, closing(HttpSender(target(f"http://127.0.0.1:{port}/v1/traces"))) as sender:
        verdict = sender.send(batch())
    assert (verdict.kind, caplog.records) == ("unavailable", [])
    assert "Connection refused" in verdict.message


def test_a_batch_larger_than_the_endpoint_takes_is_delivered_in_halves() -> None:
    whole = batch("one", "two", "three", text="x" * 1_000)
    with FaultyHttp(max_bytes=2_500) as endpoint, closing(HttpSender(target(endpoint.url))) as sender:
        assert sender.send(whole).kind == "too_large"
        assert [sender.send(half) for half in whole.halves()] == [Verdict("delivered")] * 2
        assert endpoint.names() == ["one", "two", "three"]


@pytest.mark.parametrize("compression", ["none", "gzip", "deflate"])
def test_the_bytes_of_the_batch_arrive_whatever_it_was_made_of(compression: str) -> None:
    headers = (("x-tenant", "mine"), ("authorization", "Bearer secret"))
    made = batch("one", "two", text="é" * 500)
    with FaultyHttp() as endpoint:
        way = target(endpoint.url, compression=compression, headers=headers)
        with closing(HttpSender(way)) as sender:
            assert sender.send(made).delivered
            assert sender.send(Batch(data=made.data)).delivered
            assert sender.send(Batch(data=b"\x0a\x00")).delivered  # what another program has written
        first, second, third = endpoint.requests
    assert (first.body, second.body, third.body) == (made.data, made.data, b"\x0a\x00")
    assert first.raw == second.raw
    assert first.headers.items() >= dict(headers).items()
    assert first.headers["content-type"] == "application/x-protobuf"
    assert first.headers["user-agent"].startswith("OTel-OTLP-Exporter-Python/")
    assert first.headers.get("content-encoding", "none") == compression


def test_the_connection_is_used_again() -> None:
    faults = [OK, status(503), rejecting(1), status(400, {}, b"words"), OK_GARBAGE, OK]
    with FaultyHttp(faults) as endpoint, closing(HttpSender(target(endpoint.url))) as sender:
        for _ in faults:
            sender.send(batch())
        assert (len(endpoint.requests), endpoint.connections) == (len(faults), 1)


@pytest.mark.parametrize("fault", [HANG, DRIP, DRIP_BODY], ids=lambda fault: fault.how)
def test_the_deadline_holds_however_slowly_the_answer_comes(fault: Fault) -> None:
    """The dripped answers would take minutes, and every byte of them comes within the timeout."""
    with FaultyHttp([fault]) as endpoint, closing(HttpSender(target(endpoint.url, timeout=0.3))) as sender:
        assert sender.send(batch()) == Verdict("unavailable", message="no complete answer within 0.3 s")
        assert sender.send(batch()) == Verdict("delivered")


def test_the_deadline_holds_while_a_tls_handshake_drips() -> None:
    with _dripping_tls() as port, closing(HttpSender(target(f"https://127.0.0.1:{port}/", timeout=0.3))) as sender:
        assert sender.send(batch()) == Verdict("unavailable", message="no complete answer within 0.3 s")
        assert sender.send(batch()) == Verdict("unavailable", message="no complete answer within 0.3 s")


@contextmanager
def _dripping_tls() -> Iterator[int]:
    """The beginning of a handshake, one byte at a time."""
    ended = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection:
            for byte in b"\x16\x03\x03\x40\x00" + bytes(10_000):
                try:
                    connection.send(bytes([byte]))
                except OSError:
                    return
                if ended.wait(0.05):
                    return

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=drip, args=(connection,)))
            threads[-1].start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threads = [threading.Thread(target=serve)]
        threads[0].start()
        yield listening.getsockname()[1]
        ended.set()
        listening.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def test_attempts_that_are_cut_leave_no_thread_and_no_descriptor_behind() -> None:
    with FaultyHttp(default=HANG) as endpoint, closing(HttpSender(target(endpoint.url, timeout=0.05))) as sender:
        sender.send(batch())
        endpoint.release()
        threads, files = _sending_threads(), _descriptors()
        for fault in [HANG, DRIP, DRIP_BODY, RESET, CLOSE, GARBAGE] * 3:
            endpoint.script(fault)
            assert sender.send(batch()).kind == "unavailable"
            endpoint.release()
        assert (len(endpoint.requests), _sending_threads()) == (19, threads)
        wait_until(lambda: _descriptors() <= files)  # the endpoint's threads close theirs when they are told
    wait_until(lambda: _sending_threads() == 0)


def _sending_threads() -> int:
    return sum(thread.name.startswith("agentbus-otlp to") for thread in threading.enumerate())


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def test_a_restarted_endpoint_is_found_again() -> None:
    with FaultyHttp() as endpoint, closing(HttpSender(target(endpoint.url))) as sender:
        assert sender.send(batch("before")).delivered
        endpoint.stop()
        assert sender.send(batch("lost")).kind == "unavailable"
        endpoint.start()
        assert sender.send(batch("after")).delivered
        assert endpoint.names() == ["before", "after"]


def test_shutdown_frees_an_attempt_under_way() -> None:
    verdicts: list[Verdict] = []
    with FaultyHttp([HANG]) as endpoint:
        sender = HttpSender(target(endpoint.url, timeout=300))
        thread = threading.Thread(target=lambda: verdicts.append(sender.send(batch())))
        thread.start()
        wait_until(lambda: len(endpoint.requests) == 1)
        sender.shutdown()
        thread.join(30)
        assert [verdict.kind for verdict in verdicts] == ["unavailable"]
        assert sender.send(batch()) == Verdict("unavailable", message="closed")
        sender.shutdown()
        assert len(endpoint.requests) == 1
    wait_until(lambda: _sending_threads() == 0)


def test_a_sender_that_nobody_shuts_down_leaves_no_thread() -> None:
    with FaultyHttp() as endpoint:
        sender = HttpSender(target(endpoint.url))
        assert sender.send(batch()).delivered
        assert _sending_threads() == 1
        del sender
        gc.collect()
        wait_until(lambda: _sending_threads() == 0)


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    return make_certificate(tmp_path)


def test_tls_with_the_given_authority_and_none_else(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    with FaultyHttp(certificate=certificate) as endpoint:
        with closing(HttpSender(target(endpoint.url, certificate=str(certificate.file)))) as trusting:
            assert trusting.send(batch("trusted")).delivered
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "")
        with closing(HttpSender(target(endpoint.url))) as doubting:
            verdict = doubting.send(batch("doubted"))
        assert (verdict.kind, endpoint.names()) == ("unavailable", ["trusted"])
        assert "CERTIFICATE_VERIFY_FAILED" in verdict.message


def test_mutual_tls(certificate: Certificate) -> None:
    theirs = {"certificate": str(certificate.file)}
    ours = {"client_certificate": str(certificate.file), "client_key": str(certificate.key)}
    with FaultyHttp(certificate=certificate, authority=certificate) as endpoint:
        with closing(HttpSender(target(endpoint.url, **theirs))) as nobody:
            assert nobody.send(batch("nobody's")).kind == "unavailable"
        with closing(HttpSender(target(endpoint.url, **theirs, **ours))) as known:
            assert known.send(batch("known")).delivered
        assert endpoint.names() == ["known"]


class _Credentials(requests.Session):
    """What a plugin gives: a session that signs its requests, and asks again with a new token when it is refused."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.suppressed: list[object] = []

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        self.suppressed.append(otel_context.get_value("suppress_instrumentation"))
        self.asked += 1
        response = super().request(*arguments, **{**options, "auth": ("user", str(self.asked))})
        return self.request(*arguments, **options) if response.status_code == 401 else response


def _plugin(monkeypatch: pytest.MonkeyPatch, session: object) -> None:
    monkeypatch.setattr(export, "entry_points", lambda **_: [SimpleNamespace(load=lambda: lambda: session)])


def test_a_credential_plugin_makes_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    session = _Credentials()
    _plugin(monkeypatch, session)
    made = batch("one")
    with FaultyHttp([status(401), rejecting(1), status(503), HANG]) as endpoint:
        way = target(endpoint.url, credential_provider="mine", timeout=0.5)
        with closing(HttpSender(way)) as sender:
            assert [sender.send(made).kind for _ in range(3)] == ["delivered", "unavailable", "unavailable"]
        assert [request.body for request in endpoint.requests] == [made.data] * 4
        assert len({request.headers["authorization"] for request in endpoint.requests}) == 4
    assert session.suppressed == [True] * 4
    assert otel_context.get_value("suppress_instrumentation") is None


def test_a_plugin_whose_session_cannot_be_cut_costs_one_thread_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    _plugin(monkeypatch, requests.Session())
    with FaultyHttp([DRIP]) as endpoint:
        with closing(HttpSender(target(endpoint.url, credential_provider="mine", timeout=0.1))) as sender:
            assert [sender.send(batch()).message for _ in range(3)] == [
                "no complete answer within 0.1 s",
                "the attempt before this one is still under way",
                "the attempt before this one is still under way",
            ]
            assert (len(endpoint.requests), _sending_threads()) == (1, 1)
            endpoint.release()
            wait_until(lambda: sender.send(batch()).delivered)
        assert len(endpoint.taken()) == 1


def test_whatever_a_session_raises_is_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(requests.Session):
        def request(self, *arguments: Any, **options: Any) -> requests.Response:
            raise RuntimeError("no token for secret-of-mine")

    _plugin(monkeypatch, Broken())
    way = target("http://127.0.0.1:9/", credential_provider="mine", headers=(("x-key", "secret-of-mine"),))
    with closing(HttpSender(way)) as sender:
        assert sender.send(batch()) == Verdict("unavailable", message="RuntimeError: no token for ***")


def test_what_the_endpoint_echoes_of_our_headers_is_not_shown() -> None:
    fault = status(403, {}, b"bad token hush-hush\nsecond line")
    with FaultyHttp([fault]) as endpoint:
        way = target(endpoint.url.replace("127.", "user:password@127."), headers=(("x-key", "Bearer hush-hush"),))
        with closing(HttpSender(way)) as sender:
            assert sender.send(batch()).message == "HTTP 403: bad token *** second line"
            assert sender.name == f"otlp to {endpoint.url.replace('127.', '***@127.')}"
            assert isinstance(sender, Sender)


def test_what_the_endpoint_echoes_of_its_own_address_is_not_shown() -> None:
    moved = status(301, {"location": "https://user%40x:pass-word@elsewhere/v1/traces?key=top%2Fsecret&v=2"})
    echo = status(503, {}, b"no user@x with pass-word and top/secret, version 2")
    with FaultyHttp([moved, echo]) as endpoint:
        secretive = endpoint.url.replace("127.", "user%40x:pass-word@127.") + "?key=top%2Fsecret&v=2"
        with closing(HttpSender(target(secretive))) as sender:
            redirected, refused = sender.send(batch()).message, sender.send(batch()).message
    assert redirected == "HTTP 301: a redirect to https://***:***@elsewhere/v1/traces?*** is not followed"
    assert refused == "HTTP 503: no *** with *** and ***, version 2"


@pytest.mark.parametrize(
    "answer",
    [
        status(200, _JSON, b'{"partialSuccess": {"errorMessage": null}}'),
        status(200, _JSON, b'{"partialSuccess": {"errorMessage": {}}}'),
        status(200, {"content-encoding": "gzip"}, b"not gzip at all"),
    ],
)
def test_a_success_with_a_strange_body_is_a_success_and_nothing_is_sent_again(answer: Fault) -> None:
    with FaultyHttp([answer]) as endpoint, closing(HttpSender(target(endpoint.url))) as sender:
        assert sender.send(batch()) == Verdict("delivered")


def test_a_retry_after_beyond_all_numbers_is_none() -> None:
    later = status(503, {"retry-after": "Thu, 01 Jan 99999999999999999999 00:00:00 GMT"}, b"later")
    with FaultyHttp([later]) as endpoint, closing(HttpSender(target(endpoint.url))) as sender:
        assert sender.send(batch()) == Verdict("unavailable", message="HTTP 503: later")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("inf", None),
        ("nan", None),
        ("-3", 0.0),
        (" 2 ", 2.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Wed, 99 Oct 2015 07:28:00 GMT", None),
        ("Wed, 21 Oct 99999999999999999999 07:28:00 GMT", None),
        ("Wed, 21 Oct 2015 99999999999999999999:28:00 GMT", None),
        ("Wed, 21 Oct 2015 07:28:00 +99999999999999", None),
    ],
)
def test_when_an_endpoint_wants_to_be_asked_again(text: str | None, seconds: float | None) -> None:
    assert retry_after(text) == seconds


def test_a_date_in_the_future_is_a_number_of_seconds() -> None:
    asked = retry_after(format_datetime(datetime(2999, 1, 1, tzinfo=UTC), usegmt=True))
    assert asked is not None
    assert asked == pytest.approx(datetime(2999, 1, 1, tzinfo=UTC).timestamp() - datetime.now(UTC).timestamp(), abs=60)


_FORKING = """
import json, os
from otel_agentbus.telemetry.senders.http import HttpSender
from tests.sending import batch, target

sender = HttpSender(target(os.environ["ENDPOINT"]))
before = sender.send(batch("parent")).kind
read, write = os.pipe()
child = os.fork()
if child == 0:
    sender.renew()
    os.write(write, sender.send(batch("child")).kind.encode())
    os._exit(0)
os.close(write)
told = os.read(read, 100).decode()
os.waitpid(child, 0)
print(json.dumps([before, told, sender.send(batch("parent again")).kind]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_renews_its_sender() -> None:
    with FaultyHttp() as endpoint:
        assert in_a_process_of_its_own(_FORKING, ENDPOINT=endpoint.url) == ["delivered"] * 3
        assert endpoint.names() == ["parent", "child", "parent again"]
        assert endpoint.connections == 2


def test_the_exporters_own_metrics_count_what_was_delivered_and_what_was_not() -> None:
    code = """
        import json, os
        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from otel_agentbus.telemetry.senders.http import HttpSender
        from tests.sending import batch, target

        reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider([reader]))
        sender = HttpSender(target(os.environ["ENDPOINT"]))
        for _ in range(3):
            sender.send(batch("one", "two"))
        [scope] = reader.get_metrics_data().resource_metrics[0].scope_metrics
        [exported] = [metric for metric in scope.metrics if metric.name.endswith("span.exported")]
        print(json.dumps([[point.value, "error.type" in point.attributes] for point in exported.data.data_points]))
    """
    with FaultyHttp([OK, status(503), OK]) as endpoint:
        environment = {"ENDPOINT": endpoint.url, "OTEL_PYTHON_SDK_INTERNAL_METRICS_ENABLED": "true"}
        assert in_a_process_of_its_own(code, **environment) == [[4, False], [2, True]]
        assert len(endpoint.requests) == 3


def test_the_first_batch_may_be_sent_while_the_interpreter_leaves() -> None:
    code = """
        import atexit, os
        from otel_agentbus.telemetry.senders.http import HttpSender
        from tests.sending import batch, target

        sender = HttpSender(target(os.environ["ENDPOINT"]))
        atexit.register(lambda: sender.send(batch("late")))
        print("{}")
    """
    with FaultyHttp() as endpoint:
        in_a_process_of_its_own(code, ENDPOINT=endpoint.url)
        assert endpoint.names() == ["late"]
