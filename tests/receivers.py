"""Small OTLP receivers on the loopback interface that record what arrives and answer as told, and senders."""

from __future__ import annotations

import gzip
import http.server
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc  # type: ignore[import-untyped, unused-ignore]
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from otel_agentbus.telemetry.providers import Pipeline

ExportTraceServiceRequest = trace_service_pb2.ExportTraceServiceRequest
ExportTraceServiceResponse = trace_service_pb2.ExportTraceServiceResponse
ExportMetricsServiceRequest = metrics_service_pb2.ExportMetricsServiceRequest
ExportMetricsServiceResponse = metrics_service_pb2.ExportMetricsServiceResponse


@dataclass(frozen=True)
class Certificate:
    """A self-signed certificate for the loopback interface, which is its own authority."""

    file: Path
    key: Path


def make_certificate(directory: Path) -> Certificate:
    """A new certificate; where there is no openssl, the test is skipped."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate")
    made = Certificate(directory / "certificate.pem", directory / "key.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        [*command.split(), *names, "-keyout", str(made.key), "-out", str(made.file)], check=True, capture_output=True
    )
    return made


@dataclass(frozen=True)
class Reply:
    """What a receiver answers; `hang` waits until the receiver is closed."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False


@dataclass(frozen=True)
class Received:
    """One request, its body decompressed."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def message(self) -> Any:
        """The request as protobuf."""
        kind = ExportTraceServiceRequest if self.path.endswith("traces") else ExportMetricsServiceRequest
        return kind.FromString(self.body)


class HttpReceiver:
    """An OTLP receiver over HTTP; `replies` maps a path to its answer, the rest is taken."""

    def __init__(self, replies: Mapping[str, Reply] | None = None, certificate: Certificate | None = None) -> None:
        self.replies = dict(replies or {})
        self.received: list[Received] = []
        self.released = threading.Event()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver._answer(self)

            def do_GET(self) -> None:
                receiver._answer(self)

            def log_message(self, format: str, *args: object) -> None:
                """Stay silent."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that went away is part of the tests."""

        self._server = Server(("127.0.0.1", 0), Handler)
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate.file, certificate.key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self.port = self._server.server_port
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}"

    def _answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length", 0)))
        encoding = handler.headers.get("content-encoding", "")
        if encoding:
            body = gzip.decompress(body) if encoding == "gzip" else zlib.decompress(body)
        headers = {name.lower(): text for name, text in handler.headers.items()}
        self.received.append(Received(handler.path, headers, body))
        reply = self.replies.get(handler.path, Reply())
        if reply.hang:
            self.released.wait()
            return
        handler.send_response(reply.status)
        for name, text in {"content-length": str(len(reply.body)), **reply.headers}.items():
            handler.send_header(name, text)
        handler.end_headers()
        handler.wfile.write(reply.body)

    def of(self, path: str) -> list[Received]:
        """What arrived at this path."""
        return [request for request in self.received if request.path == path]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@dataclass(frozen=True)
class GrpcReply:
    """A partial success, a refusal with a code, or silence."""

    rejected: int = 0
    message: str = ""
    code: grpc.StatusCode | None = None
    hang: bool = False


class GrpcReceiver:
    """An OTLP receiver over gRPC for the named signals; `replies` maps a signal to its answer."""

    def __init__(
        self,
        replies: Mapping[str, GrpcReply] | None = None,
        signals: tuple[str, ...] = ("traces", "metrics"),
        certificate: Certificate | None = None,
    ) -> None:
        self.replies = dict(replies or {})
        self.received: list[tuple[str, Any, dict[str, str]]] = []
        self.released = threading.Event()
        self._pool = ThreadPoolExecutor(4)
        self._server = grpc.server(self._pool)
        receiver = self

        class Traces(trace_service_pb2_grpc.TraceServiceServicer):
            def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
                reply = receiver._answer("traces", request, context)
                answer = ExportTraceServiceResponse()
                if reply.rejected:
                    answer.partial_success.rejected_spans = reply.rejected
                    answer.partial_success.error_message = reply.message
                return answer

        class Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
            def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 - the service's name
                reply = receiver._answer("metrics", request, context)
                answer = ExportMetricsServiceResponse()
                if reply.rejected:
                    answer.partial_success.rejected_data_points = reply.rejected
                    answer.partial_success.error_message = reply.message
                return answer

        add_traces: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server
        add_metrics: Any = metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server
        if "traces" in signals:
            add_traces(Traces(), self._server)
        if "metrics" in signals:
            add_metrics(Metrics(), self._server)
        if certificate is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            pair = (certificate.key.read_bytes(), certificate.file.read_bytes())
            self.port = self._server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([pair]))
        self.address = f"127.0.0.1:{self.port}"

    def _answer(self, signal: str, request: Any, context: Any) -> GrpcReply:
        self.received.append((signal, request, dict(context.invocation_metadata())))
        reply = self.replies.get(signal, GrpcReply())
        if reply.hang:
            self.released.wait()
        if reply.code is not None:
            context.abort(reply.code, reply.message)
        return reply

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.released.set()
        self._server.stop(None).wait()
        self._pool.shutdown()


@contextmanager
def closed_port() -> Iterator[int]:
    """A port of the loopback interface at which nobody listens."""
    with socket.socket() as bound:  # bound and not listening: nobody else gets it meanwhile
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def forget_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unset what the machine of the test has set."""
    for name in list(os.environ):
        if name.startswith(("OTEL_", "AGENTBUS_")):
            monkeypatch.delenv(name)


def in_a_process_of_its_own(code: str, **environment: str) -> Any:
    """Run this code where global providers may be set; what it prints last is JSON."""
    inherited = {name: text for name, text in os.environ.items() if not name.startswith(("OTEL_", "AGENTBUS_"))}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        env={**inherited, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def flush(pipeline: Pipeline, timeout: float = 10.0) -> bool:
    """Deliver what there is of spans and metrics; whether that was all."""
    spans = pipeline.flush_spans(time.monotonic() + timeout)
    return pipeline.flush_metrics(timeout) and spans


def shut_down(pipeline: Pipeline, timeout: float = 5.0) -> None:
    """End it, as a bus does."""
    pipeline.close_spans(time.monotonic() + timeout)
    pipeline.shut_down(timeout)


def emit(pipeline: Pipeline, spans: int = 1) -> None:
    """Some spans and one data point."""
    if pipeline.tracer_provider is not None:
        tracer = pipeline.tracer_provider.get_tracer("test")
        for number in range(spans):
            tracer.start_span(f"span {number}").end()
    if pipeline.meter_provider is not None:
        pipeline.meter_provider.get_meter("test").create_counter("counted").add(3)
