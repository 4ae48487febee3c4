"""OTLP over gRPC by the public stub on a channel of our own: the code, the words and the partial success are seen."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from otel_agentbus.targets import Target
from otel_agentbus.telemetry.export import grpc_compression, grpc_credentials, rejections
from otel_agentbus.telemetry.otlp import Batch
from otel_agentbus.telemetry.probe import _clean

from .answers import of_grpc, retry_info
from .quiet import suppressed
from .verdict import Verdict

if TYPE_CHECKING:
    import grpc  # type: ignore[import-untyped, unused-ignore]

#: After these the connection may be dead without knowing it, or wait for its own backoff: the next attempt makes one.
_SUSPECT = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"})

#: How long gRPC may take to keep its own deadline, in seconds.
_GRACE = 0.5


class GrpcSender:
    """Sends batches to one target over gRPC; ConfigurationError if its credentials cannot be had."""

    def __init__(self, target: Target) -> None:
        self.name = f"otlp to {target.shown}"
        self._target = target
        self._credentials = grpc_credentials(target)
        self._metadata = tuple((key.lower(), text) for key, text in target.headers)
        self._lock = threading.Lock()
        self._channel: grpc.Channel | None = None
        self._call: Any = None
        self._closed = False

    def send(self, batch: Batch) -> Verdict:
        """One attempt, over by the target's timeout; never raises."""
        try:
            with suppressed():
                return self._attempt(batch)
        except Exception as error:  # noqa: BLE001 - whatever a foreign plugin or interceptor raises is no answer
            return Verdict("failed", message=_clean(f"{type(error).__name__}: {error}", self._target))

    def shutdown(self) -> None:
        """Send nothing any more; a call under way is cancelled."""
        with self._lock:
            self._closed = True
            call, channel = self._call, self._channel
            self._channel = None
        if call is not None:
            call.cancel()
        if channel is not None:
            channel.close()

    def renew(self) -> None:
        """Use a new channel, as the child of a fork must; the parent's is left alone and never closed here."""
        _inherited.append((self._channel, self._call))
        self._lock = threading.Lock()
        self._channel = self._call = None
        self._closed = False

    def _attempt(self, batch: Batch) -> Verdict:
        import grpc
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        request = ExportTraceServiceRequest.FromString(batch.data)
        call = self._begin(request)
        if call is None:
            return Verdict("unavailable", message="closed")
        try:
            answer = call.result(self._target.timeout + _GRACE)
        except grpc.FutureCancelledError:
            return Verdict("unavailable", message="closed")
        except grpc.FutureTimeoutError:  # gRPC itself is stuck, as it may be in the child of a fork
            call.cancel()
            self._reset()
            return Verdict("unavailable", message=f"no complete answer within {self._target.timeout:g} s")
        except grpc.RpcError as error:
            return self._failed(error)
        finally:
            self._call = None
        rejected, words = rejections("traces", answer)
        return Verdict("delivered", max(rejected, 0), _clean(words, self._target))

    def _begin(self, request: Any) -> Any:
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

        with self._lock:
            if self._closed:
                return None
            if self._channel is None:
                self._channel = self._opened()
            make_stub: Any = trace_service_pb2_grpc.TraceServiceStub
            self._call = make_stub(self._channel).Export.future(
                request, timeout=self._target.timeout, metadata=self._metadata
            )
            return self._call

    def _failed(self, error: Any) -> Verdict:
        if self._closed:
            return Verdict("unavailable", message="closed")
        code, details = error.code().name, error.details() or ""
        if code in _SUSPECT or "Stream removed" in details:
            self._reset()
        asked = retry_info(error.trailing_metadata() or ())
        return Verdict(
            of_grpc(code, details), message=_clean(f"gRPC {code}: {details}", self._target), retry_after=asked
        )

    def _reset(self) -> None:
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def _opened(self) -> grpc.Channel:
        import grpc
        from opentelemetry.exporter.otlp.proto.grpc.version import __version__

        target = self._target
        options = (
            ("grpc.primary_user_agent", f"OTel-OTLP-Exporter-Python/{__version__}"),
            ("grpc.use_local_subchannel_pool", 1),  # else a new channel shares the backoff of the one it replaces
        )
        address = urlsplit(target.endpoint).netloc or target.endpoint
        compression = grpc_compression(target)
        if self._credentials is None:
            return grpc.insecure_channel(address, options, compression)
        return grpc.secure_channel(address, self._credentials, options, compression)


#: Channels of a parent process: to close one, or to let it be collected, in the child may hang.
_inherited: list[Any] = []
