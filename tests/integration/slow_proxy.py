"""An OTLP endpoint in front of the Collector's that takes its time, as one far away and overloaded does."""

from __future__ import annotations

import http.server
import threading
from types import TracebackType
from typing import Self

import httpx


class SlowProxy(http.server.ThreadingHTTPServer):
    """Passes each export on to `target` (a base URL) after so many seconds, and the answer back."""

    daemon_threads = True

    def __init__(self, target: str, seconds: float, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.seconds = seconds
        #: How many requests were passed on.
        self.passed = 0
        self.over = threading.Event()
        self.client = httpx.Client(base_url=target, trust_env=False, timeout=30.0)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.over.set()
        self.shutdown()
        self._thread.join()
        self.server_close()
        self.client.close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SlowProxy

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        kept = {name: self.headers[name] for name in ("content-type", "content-encoding") if name in self.headers}
        if self.server.over.wait(self.server.seconds):
            return  # of no interest to anybody any more
        answer = self.server.client.post(self.path, content=body, headers=kept)
        self.server.passed += 1
        self.send_response(answer.status_code)
        self.send_header("content-type", answer.headers.get("content-type", "application/x-protobuf"))
        self.send_header("content-length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""
