"""OTLP trace endpoints that misbehave as scripted, over HTTP and gRPC, stop and start again on their port, and record.

    with FaultyHttp([RESET, status(503, {"retry-after": "7"}), rejecting(2)]) as endpoint:
        ...                      # endpoint.url; the first three requests get these answers, all later ones OK
        endpoint.default = HANG  # from now on
        endpoint.stop(); ...; endpoint.start()   # the same port; open connections are torn down
        endpoint.names()         # the names of the spans that were taken, in order; `requests` has everything

    with FaultyGrpc([code("UNAVAILABLE", retry_after=1.5)], max_bytes=10_000) as endpoint:   # endpoint.address

Answers: OK, OK_GARBAGE, HANG (until stop or release), DRIP (its reply one byte at a time), DRIP_BODY, RESET, CLOSE,
GARBAGE, rejecting(n), status(number, headers, body), code(name, details, retry_after). `max_bytes` refuses
bigger requests.
"""

from __future__ import annotations

import gzip
import http.server
import socket
import ssl
import struct
import threading
import zlib
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal, Self

import grpc  # type: ignore[import-untyped, unused-ignore]
from google.protobuf.any_pb2 import Any as AnyMessage  # type: ignore[import-untyped, unused-ignore]
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped, unused-ignore]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped, unused-ignore]
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from tests.receivers import Certificate

Request = trace_service_pb2.ExportTraceServiceRequest
Response = trace_service_pb2.ExportTraceServiceResponse

How = Literal["answer", "hang", "drip", "drip_body", "reset", "close", "garbage"]


@dataclass(frozen=True)
class Fault:
    """What one request gets."""

    how: How = "answer"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    rejected: int = 0
    message: str = ""
    #: gRPC: the code's name, and the delay that a RetryInfo asks for.
    code: str = "OK"
    retry_after: float | None = None
    #: gRPC: where the RetryInfo stands: in the google.rpc.Status as the standard says, or in a header of its own.
    bare_retry_info: bool = False

    @property
    def takes(self) -> bool:
        """Whether the sender is told that the spans have been taken."""
        return self.how == "answer" and 200 <= self.status < 300 and self.code == "OK"


OK = Fault()
OK_GARBAGE = Fault(body=b"\xff\xfe no protobuf \x00")
HANG = Fault("hang")
DRIP = Fault("drip")
DRIP_BODY = Fault("drip_body")
RESET = Fault("reset")
CLOSE = Fault("close")
GARBAGE = Fault("garbage", body=b"\x15\x03\x01\x00\x02\x02 this is no HTTP at all\r\n\r\n")


def rejecting(spans: int, message: str = "") -> Fault:
    """Takes the request but for the last so many of its spans."""
    return Fault(rejected=spans, message=message)


def status(number: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> Fault:
    """Answers with this HTTP status."""
    return Fault(status=number, headers=headers or {}, body=body)


def code(name: str, details: str = "", retry_after: float | None = None, *, bare_retry_info: bool = False) -> Fault:
    """Answers with the gRPC code of this name."""
    return Fault(code=name, message=details, retry_after=retry_after, bare_retry_info=bare_retry_info)


@dataclass(frozen=True)
class Arrived:
    """One request: its body, decompressed and as it came, its headers in lower case or its metadata, what it got."""

    body: bytes
    headers: Mapping[str, str]
    fault: Fault
    raw: bytes = b""

    @property
    def message(self) -> Any:
        """The request as protobuf."""
        return Request.FromString(self.body)

    @property
    def names(self) -> list[str]:
        """The names of its spans, in order."""
        groups = [scope.spans for resource in self.message.resource_spans for scope in resource.scope_spans]
        return [span.name for spans in groups for span in spans]


class _Endpoint:
    def __init__(self, script: Iterable[Fault], default: Fault, max_bytes: int | None) -> None:
        self.default = default
        self.max_bytes = max_bytes
        #: Everything that arrived whole, also what was refused.
        self.requests: list[Arrived] = []
        self.port = 0
        self._script = deque(script)
        self._lock = threading.Lock()
        self._released = threading.Event()

    def script(self, *faults: Fault) -> None:
        """What the next requests get, after what is still to come."""
        with self._lock:
            self._script.extend(faults)

    def release(self) -> None:
        """Let go of the requests that hang or drip; they end without an answer."""
        self._released.set()
        self._released = threading.Event()

    def taken(self) -> list[Arrived]:
        """The requests whose sender was told that they were taken."""
        return [arrived for arrived in self.requests if arrived.fault.takes]

    def names(self) -> list[str]:
        """The names of the spans that were taken and not rejected, in order of arrival."""
        return [name for one in self.taken() for name in one.names[: len(one.names) - one.fault.rejected]]

    def _next(self) -> Fault:
        with self._lock:
            return self._script.popleft() if self._script else self.default

    def _recorded(self, body: bytes, headers: Mapping[str, str], raw: bytes = b"") -> Fault:
        fault = self._next()
        if self.max_bytes is not None and len(body) > self.max_bytes:
            fault = status(413, body=b"too large")
        with self._lock:
            self.requests.append(Arrived(body, headers, fault, raw))
        return fault

    def start(self) -> Self:
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


class FaultyHttp(_Endpoint):
    """Over HTTP/1.1 with connections that stay open; `authority` is what a client's certificate must be signed by."""

    def __init__(
        self,
        script: Iterable[Fault] = (),
        *,
        default: Fault = OK,
        max_bytes: int | None = None,
        certificate: Certificate | None = None,
        authority: Certificate | None = None,
    ) -> None:
        super().__init__(script, default, max_bytes)
        self._context = _tls(certificate, authority)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where the traces go."""
        return f"{'https' if self._context else 'http'}://127.0.0.1:{self.port}/v1/traces"

    @property
    def connections(self) -> int:
        """How many connections have been made since the start."""
        return self._server.made if self._server else 0

    def start(self) -> Self:
        """Listen, on the same port as the last time."""
        self._server = _Server(("127.0.0.1", self.port), _handler(self))
        self._server.context = self._context
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """Tear down all connections and stop listening; nothing happens when it has been stopped."""
        self.release()
        server, self._server = self._server, None
        if server is not None and self._thread is not None:
            server.shutdown()
            self._thread.join()
            server.server_close()
            server.tear()

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        """Read one request and give it what the script says."""
        raw = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        headers = {name.lower(): text for name, text in handler.headers.items()}
        body = _decompressed(raw, headers.get("content-encoding", ""))
        released = self._released
        fault = self._recorded(body, headers, raw)
        if fault.how == "answer":
            handler.wfile.write(_reply(fault))
            return
        handler.close_connection = True
        if fault.how == "hang":
            released.wait()
        elif fault.how == "reset":
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
        elif fault.how == "garbage":
            handler.wfile.write(fault.body)
        elif fault.how == "drip":
            _drip(handler, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: " + 10_000 * b"x", released)
        elif fault.how == "drip_body":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n")
            _drip(handler, 10_000 * b"x", released)


def _decompressed(raw: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.decompress(raw)
    return zlib.decompress(raw) if encoding == "deflate" else raw


def _reply(fault: Fault) -> bytes:
    body = fault.body
    if fault.rejected or fault.message:
        answer = Response()
        answer.partial_success.rejected_spans = fault.rejected
        answer.partial_success.error_message = fault.message
        body = answer.SerializeToString()
    headers = {"content-type": "application/x-protobuf", "content-length": str(len(body)), **fault.headers}
    lines = [f"HTTP/1.1 {fault.status} {_reason(fault.status)}", *(f"{name}: {text}" for name, text in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _reason(number: int) -> str:
    return HTTPStatus(number).phrase if number in set(HTTPStatus) else "Unknown"


def _drip(handler: http.server.BaseHTTPRequestHandler, text: bytes, released: threading.Event) -> None:
    for byte in text:
        handler.wfile.write(bytes([byte]))
        if released.wait(0.05):
            return


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    context: ssl.SSLContext | None = None

    def __init__(self, *arguments: Any) -> None:
        self.open: set[socket.socket] = set()
        self.made = 0
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.made += 1
        self.open.add(request)
        super().process_request(request, client_address)

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.context is not None:  # in the connection's own thread: a slow handshake holds nobody up
            request = self.context.wrap_socket(request, server_side=True, do_handshake_on_connect=True)
            self.open.add(request)
        super().finish_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def tear(self) -> None:
        for connection in list(self.open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            connection.close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is part of the tests."""


def _handler(endpoint: FaultyHttp) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            endpoint.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            """Stay silent."""

    return Handler


def _tls(certificate: Certificate | None, authority: Certificate | None) -> ssl.SSLContext | None:
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.file, certificate.key)
    if authority is not None:
        context.load_verify_locations(authority.file)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class FaultyGrpc(_Endpoint):
    """Over gRPC; of the answers it knows OK, HANG, rejecting and code."""

    def __init__(
        self,
        script: Iterable[Fault] = (),
        *,
        default: Fault = OK,
        max_bytes: int | None = None,
        certificate: Certificate | None = None,
        authority: Certificate | None = None,
    ) -> None:
        super().__init__(script, default, None)
        # The server itself refuses what is larger, as a Collector would: RESOURCE_EXHAUSTED.
        self._options = [] if max_bytes is None else [("grpc.max_receive_message_length", max_bytes)]
        self._options.append(("grpc.so_reuseport", 0))
        self._pair = None if certificate is None else (certificate.key.read_bytes(), certificate.file.read_bytes())
        self._authority = None if authority is None else authority.file.read_bytes()
        self._server: Any = None
        self._pool: ThreadPoolExecutor | None = None

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> Self:
        """Listen, on the same port as the last time."""
        self._pool = ThreadPoolExecutor(4)
        self._server = grpc.server(self._pool, options=self._options)
        add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        add(_service(self), self._server)
        if self._pair is None:
            self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        else:
            demands = self._authority is not None
            credentials = grpc.ssl_server_credentials([self._pair], self._authority, demands)
            self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        self._server.start()
        return self

    def stop(self) -> None:
        """Tear down all connections and stop listening; nothing happens when it has been stopped."""
        self.release()
        server, self._server = self._server, None
        if server is not None and self._pool is not None:
            server.stop(None).wait()
            self._pool.shutdown()

    def answer(self, request: Any, context: Any) -> Any:
        """Give one request what the script says."""
        released = self._released
        fault = self._recorded(request.SerializeToString(), dict(context.invocation_metadata()))
        if fault.how == "hang":
            released.wait()
        if fault.retry_after is not None:
            context.set_trailing_metadata((_retry_info(fault),))
        if fault.code != "OK":
            context.abort(grpc.StatusCode[fault.code], fault.message)
        answer = Response()
        if fault.rejected or fault.message:
            answer.partial_success.rejected_spans = fault.rejected
            answer.partial_success.error_message = fault.message
        return answer


def _retry_info(fault: Fault) -> tuple[str, bytes]:
    info = RetryInfo()
    info.retry_delay.FromNanoseconds(int((fault.retry_after or 0) * 1e9))
    if fault.bare_retry_info:
        return "google.rpc.retryinfo-bin", info.SerializeToString()
    detail = AnyMessage()
    detail.Pack(info)
    told = Status(code=grpc.StatusCode[fault.code].value[0], message=fault.message, details=[detail])
    return "grpc-status-details-bin", told.SerializeToString()


def _service(endpoint: FaultyGrpc) -> Any:
    class Service(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
            return endpoint.answer(request, context)

    return Service()
