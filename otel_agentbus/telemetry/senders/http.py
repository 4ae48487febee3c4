"""OTLP over HTTP by the official exporter: one attempt at a time, its answer seen, its deadline kept."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from otel_agentbus.targets import Target
from otel_agentbus.telemetry.export import _http_arguments, partial_success
from otel_agentbus.telemetry.otlp import Batch
from otel_agentbus.telemetry.probe import _clean, _innermost, _words

from .answers import of_http, retry_after
from .attempts import Attempts, Overdue
from .lines import Lines
from .one_attempt import one_attempt
from .quiet import suppressed, unlogged
from .verdict import Verdict

if TYPE_CHECKING:
    import requests
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

_LOGGER = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


class HttpSender:
    """Sends batches to one target over HTTP; ConfigurationError if its credentials cannot be had."""

    def __init__(self, target: Target) -> None:
        self.name = f"otlp to {target.shown}"
        self._target = target
        self._open()

    def _open(self) -> None:
        self._way = _Way(self._target)
        self._attempts = Attempts(f"agentbus-{self.name}")

    def send(self, batch: Batch) -> Verdict:
        """One attempt, over by the target's timeout; never raises."""
        way = self._way
        try:
            _ = batch.data  # made here: the deadline is the network's
            return self._attempts.run(lambda: way.send(batch), self._target.timeout, way.cut)
        except Overdue as overdue:
            return Verdict("unavailable", message=str(overdue))
        except Exception as error:  # noqa: BLE001 - whatever a foreign session or exporter raises is no answer
            return Verdict("failed", message=_clean(f"{type(error).__name__}: {error}", self._target))

    def shutdown(self) -> None:
        """Send nothing any more; the connection of an attempt under way is cut."""
        self._attempts.close()
        self._way.close()

    def renew(self) -> None:
        """Use a new session and a new thread, as the child of a fork must."""
        self._open()


class _Way:
    """The official exporter, our session in it, and what came of the request."""

    def __init__(self, target: Target) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        self._target = target
        self._data = b""
        arguments = _http_arguments(target, lambda *_, **__: None)
        self._lines = _lines(arguments["session"], target)
        session = one_attempt(arguments["session"], self._body, self._judge)
        self._exporter: SpanExporter = OTLPSpanExporter(**{**arguments, "session": session})
        self._verdict: Verdict | None = None

    def send(self, batch: Batch) -> Verdict:
        self._verdict = None
        self._data = batch.data
        try:
            with suppressed(), unlogged(_LOGGER):
                self._exporter.export(_Counted(batch.count))
        finally:
            self._data = b""
            if self._lines is not None:
                self._lines.sweep()
        return self._verdict or Verdict("unavailable", message="the exporter has been shut down")

    def cut(self) -> None:
        if self._lines is not None:
            self._lines.cut()

    def close(self) -> None:
        self.cut()
        with unlogged(_LOGGER):
            self._exporter.shutdown()

    def _body(self) -> bytes:
        if self._target.compression == "gzip":
            return gzip.compress(self._data, mtime=0)
        return zlib.compress(self._data) if self._target.compression == "deflate" else self._data

    def _judge(self, answer: requests.Response | Exception) -> bool:
        verdict = _of_error(answer) if isinstance(answer, Exception) else _of_response(answer)
        self._verdict = Verdict(
            verdict.kind, verdict.rejected, _clean(verdict.message, self._target), verdict.retry_after
        )
        return verdict.delivered


class _Counted(Sequence["ReadableSpan"]):
    """As many spans as the batch has, for the exporter to count; their bytes are in the session already."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[ReadableSpan]:
        return iter(())

    @overload
    def __getitem__(self, index: int) -> ReadableSpan: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ReadableSpan]: ...
    def __getitem__(self, index: Any) -> Any:
        raise IndexError(index)


def _lines(session: requests.Session, target: Target) -> Lines | None:
    """The connections of our session; in a credential plugin's session nothing is replaced."""
    if target.credential_provider is not None:
        return None
    lines = Lines()
    for scheme in ("https://", "http://"):
        session.mount(scheme, lines.adapter())
    return lines


def _of_response(response: requests.Response) -> Verdict:
    status = response.status_code
    if 300 <= status < 400:
        where = response.headers.get("location", "elsewhere")
        return Verdict("unavailable", message=f"HTTP {status}: a redirect to {where} is not followed")
    words = _words(response) or response.reason or ""
    kind = of_http(status, words)
    if kind == "delivered":
        rejected, said = partial_success("traces", response)
        return Verdict(kind, max(rejected, 0), said if isinstance(said, str) else "")  # JSON may say null
    asked = retry_after(response.headers.get("retry-after"))
    return Verdict(kind, message=f"HTTP {status}: {words}", retry_after=asked)


def _of_error(error: Exception) -> Verdict:
    return Verdict("unavailable", message=f"{type(error).__name__}: {_innermost(error)}")
