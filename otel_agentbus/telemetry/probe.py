"""Does the endpoint answer? One probe span and one probe metric, sent as the exporters would, once and without retries.

The official exporters hide the answer (status, words, partial success), so the same bytes are sent by the same clients.
"""

from __future__ import annotations

import gzip
import json
import re
import secrets
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import unquote, urlsplit

from otel_agentbus._version import __version__
from otel_agentbus.targets import Target
from otel_agentbus.values import Protocol, Signal

if TYPE_CHECKING:
    import requests

Outcome = Literal["accepted", "partial", "refused", "redirected", "timeout", "closed", "unresolved", "tls", "broken"]
Speech = Literal["http/1", "http/2"]

#: What every HTTP/2 connection begins with, and an empty SETTINGS frame.
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_SETTINGS_FRAME = 4
_HTTP1_HELLO = b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back on one probe."""

    signal: Signal
    protocol: Protocol
    endpoint: str
    outcome: Outcome
    #: The HTTP status or the gRPC code, where there was one.
    code: str = ""
    #: What the server or the network said, cleaned of our secrets.
    words: str = ""
    rejected: int = 0
    seconds: float = 0.0
    #: Which HTTP the port speaks, where the protocol has failed on it.
    speaks: Speech | None = None


def probe(targets: Sequence[Target], resource: Mapping[str, object], timeout: float) -> list[Answer]:
    """Send one probe to each target at once, and say what came back within the timeout."""
    answers = [_silence(target, timeout) for target in targets]

    def run(index: int, target: Target) -> None:
        answers[index] = _measured(target, resource, timeout)

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(targets)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + timeout + 0.5  # the clients' own timeouts come first, and know more
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return list(answers)


def _silence(target: Target, timeout: float) -> Answer:
    return Answer(target.signal, target.protocol, target.shown, "timeout", words="no answer", seconds=timeout)


def _measured(target: Target, resource: Mapping[str, object], timeout: float) -> Answer:
    began = time.monotonic()
    request = _span_request(resource) if target.signal == "traces" else _metric_request(resource)
    try:
        send = _send_grpc if target.protocol == "grpc" else _send_http
        answer = send(target, request, timeout)
    except Exception as error:  # noqa: BLE001 - whatever a foreign client raises is an answer here
        answer = replace(_silence(target, 0), outcome="broken", words=f"{type(error).__name__}: {error}")
    seconds = time.monotonic() - began
    if answer.outcome in {"broken", "timeout", "refused"} and (target.insecure or target.endpoint.startswith("http:")):
        answer = replace(answer, speaks=spoken(target.endpoint, min(timeout, 1.0)))
    return replace(answer, words=_clean(answer.words, target), seconds=seconds)


def spoken(endpoint: str, timeout: float) -> Speech | None:
    """Which HTTP a plain-text port speaks, told by how it answers the beginning of a connection."""
    said = _ask(endpoint, _HTTP2_HELLO, timeout)
    if len(said) >= 9 and said[3] == _SETTINGS_FRAME:
        return "http/2"
    return "http/1" if _ask(endpoint, _HTTP1_HELLO, timeout).startswith(b"HTTP/1") else None


def _ask(endpoint: str, hello: bytes, timeout: float) -> bytes:
    parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 80), timeout) as connection:
            connection.sendall(hello)
            return connection.recv(64)
    except OSError:
        return b""


def _send_http(target: Target, request: Any, timeout: float) -> Answer:
    import requests

    from otel_agentbus.telemetry.export import http_session, partial_success

    body, headers = request.SerializeToString(), {"content-type": "application/x-protobuf", **dict(target.headers)}
    if target.compression != "none":
        body = gzip.compress(body) if target.compression == "gzip" else zlib.compress(body)
        headers["content-encoding"] = target.compression
    headers.setdefault("user-agent", f"otel-agentbus/{__version__} doctor")
    both = (target.client_certificate, target.client_key)
    answer = _silence(target, timeout)
    try:
        with http_session(target) as session:
            response = session.post(
                target.endpoint,
                data=body,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
                verify=target.certificate or True,
                cert=both if all(both) else target.client_certificate,  # type: ignore[arg-type]  # both are set
            )
    except requests.exceptions.RequestException as error:
        return replace(answer, outcome=_failure(error), words=_innermost(error))
    answer = replace(answer, code=str(response.status_code))
    if 300 <= response.status_code < 400:
        return replace(answer, outcome="redirected", words=response.headers.get("location", ""))
    if not response.ok:
        return replace(answer, outcome="refused", words=_words(response) or response.reason)
    rejected, words = partial_success(target.signal, response)
    return replace(answer, outcome="partial" if rejected else "accepted", rejected=rejected, words=words)


def _failure(error: BaseException) -> Outcome:
    """What kind of trouble lies at the bottom of a client's exception."""
    import requests

    for cause in _causes(error):
        if isinstance(cause, requests.exceptions.Timeout | TimeoutError):
            return "timeout"
        if isinstance(cause, ssl.SSLError | requests.exceptions.SSLError):
            return "tls"
        if isinstance(cause, ConnectionRefusedError):
            return "closed"
        if isinstance(cause, socket.gaierror):
            return "unresolved"
    return "broken"


def _causes(error: BaseException) -> list[BaseException]:
    """The exception, what it was raised from, and what urllib3 has put into arguments and reasons."""
    found: list[BaseException] = []
    waiting: list[object] = [error]
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and cause not in found:
            found.append(cause)
            waiting += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
    return found


def _innermost(error: BaseException) -> str:
    return str(next((cause for cause in reversed(_causes(error)) if str(cause)), error))


def _words(response: requests.Response) -> str:
    """What a refusing server says: a google.rpc.Status in protobuf or JSON, else text."""
    kind = response.headers.get("content-type", "")
    try:
        if "protobuf" in kind:
            from google.rpc.status_pb2 import Status  # type: ignore[import-untyped, unused-ignore]

            return str(Status.FromString(response.content).message)
        if "json" in kind:
            return str(json.loads(response.content)["message"])
    except Exception:  # noqa: BLE001 - somebody else's bytes: shown as they are
        pass
    return re.sub(r"<[^>]*>", " ", response.text[:2_000]) if "html" in kind else response.text[:2_000]


def _send_grpc(target: Target, request: Any, timeout: float) -> Answer:
    import grpc  # type: ignore[import-untyped, unused-ignore]
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2_grpc import MetricsServiceStub
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import TraceServiceStub

    from otel_agentbus.telemetry.export import grpc_compression, grpc_credentials, rejections

    address = urlsplit(target.endpoint).netloc if "://" in target.endpoint else target.endpoint
    compression, credentials = grpc_compression(target), grpc_credentials(target)
    if credentials is None:
        channel = grpc.insecure_channel(address, compression=compression)
    else:
        channel = grpc.secure_channel(address, credentials, compression=compression)
    answer = _silence(target, timeout)
    with channel:
        stub: Any = TraceServiceStub if target.signal == "traces" else MetricsServiceStub
        try:
            response = stub(channel).Export(request, metadata=target.headers, timeout=timeout)
        except grpc.RpcError as error:
            code, details = error.code().name, error.details() or ""
            return replace(answer, outcome=_grpc_failure(code, details), code=code, words=details)
    rejected, words = rejections(target.signal, response)
    return replace(answer, outcome="partial" if rejected else "accepted", code="OK", rejected=rejected, words=words)


def _grpc_failure(code: str, details: str) -> Outcome:
    if code == "DEADLINE_EXCEEDED":
        return "timeout"
    if code != "UNAVAILABLE":
        return "refused"
    marks: dict[str, Outcome] = {
        "Connection refused": "closed",
        "resolv": "unresolved",
        "resolution": "unresolved",
        "lookup": "unresolved",
        "handshake": "tls",
        "SSL": "tls",
    }
    return next((outcome for mark, outcome in marks.items() if mark in details), "broken")


def _clean(words: str, target: Target) -> str:
    """The words on one line, without what a server may have echoed of our headers or of the endpoint's secrets."""
    for secret in sorted(_secrets(target), key=len, reverse=True):
        words = words.replace(secret, "***") if len(secret) >= 4 else words
    printable = "".join(char if char.isprintable() else " " for char in words)
    line = " ".join(printable.split())
    return line if len(line) <= 300 else f"{line[:299]}…"


def _secrets(target: Target) -> set[str]:
    """What of this target must not be shown: a redirect, say, repeats the query of the endpoint."""
    found = set()
    for _, secret in target.headers:
        found |= {secret, secret.rpartition(" ")[2]}  # with and without its "Bearer"
    parts = urlsplit(target.endpoint)
    written = {parts.username or "", parts.password or "", parts.query}
    written |= {pair.partition("=")[2] for pair in parts.query.split("&")}
    return found | written | {unquote(text) for text in written}


def _resource(attributes: Mapping[str, object]) -> Any:
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
    from opentelemetry.proto.resource.v1.resource_pb2 import Resource

    return Resource(
        attributes=[KeyValue(key=key, value=AnyValue(string_value=str(text))) for key, text in attributes.items()]
    )


def _scope() -> Any:
    from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope

    return InstrumentationScope(name="otel_agentbus", version=__version__)


def _span_request(resource: Mapping[str, object]) -> Any:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

    now = time.time_ns()
    span = Span(
        trace_id=secrets.token_bytes(16),
        span_id=secrets.token_bytes(8),
        name="otel-agentbus doctor",
        kind=Span.SpanKind.SPAN_KIND_INTERNAL,
        start_time_unix_nano=now,
        end_time_unix_nano=now,
    )
    in_scope = ScopeSpans(scope=_scope(), spans=[span])
    of_resource = ResourceSpans(resource=_resource(resource), scope_spans=[in_scope])
    return ExportTraceServiceRequest(resource_spans=[of_resource])


def _metric_request(resource: Mapping[str, object]) -> Any:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
    from opentelemetry.proto.metrics.v1.metrics_pb2 import Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics

    point = NumberDataPoint(time_unix_nano=time.time_ns(), as_int=1)
    # A gauge, because some receivers refuse sums of the one temporality, some of the other.
    metric = Metric(name="agentbus.doctor.probe", unit="{probe}", gauge=Gauge(data_points=[point]))
    in_scope = ScopeMetrics(scope=_scope(), metrics=[metric])
    of_resource = ResourceMetrics(resource=_resource(resource), scope_metrics=[in_scope])
    return ExportMetricsServiceRequest(resource_metrics=[of_resource])
