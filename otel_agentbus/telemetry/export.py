"""The official OTLP and console exporters, made from settings; what they deliver is counted, what they hide is seen.

The SDK ignores what an exporter returns, and over HTTP the exporters take a redirect and a partial success for success.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeVar

from opentelemetry.sdk.metrics.export import MetricExporter, MetricExportResult, MetricsData
from opentelemetry.sdk.trace.id_generator import IdGenerator

from otel_agentbus.errors import ConfigurationError
from otel_agentbus.settings import Settings
from otel_agentbus.targets import Target
from otel_agentbus.values import Signal

from .kept_exemplars import KeptExemplars

if TYPE_CHECKING:
    import grpc  # type: ignore[import-untyped, unused-ignore]  # its stubs are a package of their own
    import requests

_T = TypeVar("_T")
_log = logging.getLogger("otel_agentbus")


@dataclass(slots=True)
class Delivery:
    """How many spans, or data points of metrics, one exporter of ours has delivered and lost."""

    signal: Signal
    exporter: str
    endpoint: str
    delivered: int = 0
    failed: int = 0
    #: Of those that the endpoint took, how many it then refused (partial success); over gRPC the SDK does not tell.
    rejected: int = 0


class UnseededIds(IdGenerator):
    """Random ids that `random.seed()` in the application cannot repeat; the SDK's own generator would."""

    def generate_span_id(self) -> int:
        """A random id of 64 bits, never zero."""
        return secrets.randbits(64) or self.generate_span_id()

    def generate_trace_id(self) -> int:
        """A random id of 128 bits, never zero."""
        return secrets.randbits(128) or self.generate_trace_id()

    def is_trace_id_random(self) -> bool:
        """True: all bits are."""
        return True


class _Counting:
    """What both counting exporters share; an exporter belongs to the process that made it, in a fork it is silent."""

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self.rejected = 0
        self.closed = False
        self._pid = os.getpid()

    def usable(self) -> bool:
        return not self.closed and os.getpid() == self._pid

    def account(self, size: int, delivered: bool) -> None:
        """Add one export of this size; `rejected` has been noted by the answer's reader meanwhile."""
        rejected, self.rejected = (self.rejected if delivered else 0), 0
        self.delivery.rejected += rejected
        if delivered:
            self.delivery.delivered += size - rejected
        else:
            self.delivery.failed += size

    def read_answer(self, response: requests.Response, *_args: object, **_options: object) -> None:
        """A hook of the HTTP session: fail on a redirect, note a partial success."""
        import requests

        if 300 <= response.status_code < 400:
            response.close()
            raise requests.exceptions.TooManyRedirects(f"HTTP {response.status_code}: a redirect is not followed")
        if response.ok:
            delivery = self.delivery
            self.rejected, words = partial_success(delivery.signal, response)
            if self.rejected and not delivery.rejected:  # the first time only
                _log.warning("%s rejected %d of the %s: %s", delivery.endpoint, self.rejected, delivery.signal, words)

    def close_once(self) -> bool:
        """Whether the inner exporter is to be shut down now: once, and never in a forked child."""
        first = self.usable()
        self.closed = True
        return first


class CountingMetricExporter(_Counting, MetricExporter):
    """A metric exporter that keeps count of the data points that the one inside delivers."""

    def __init__(self, delivery: Delivery, inner: Callable[[_Counting], MetricExporter]) -> None:
        _Counting.__init__(self, delivery)
        self.inner = inner(self)
        self._kept = KeptExemplars()
        MetricExporter.__init__(self, self.inner._preferred_temporality, self.inner._preferred_aggregation)

    def export(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> MetricExportResult:
        """Export and count; a closed or inherited exporter sends nothing."""
        delivered = False
        try:
            result = MetricExportResult.FAILURE
            if self.usable():
                result = self.inner.export(self._kept(metrics_data), timeout_millis=timeout_millis, **kwargs)
            delivered = result is MetricExportResult.SUCCESS
            return result
        finally:
            self.account(_points(metrics_data), delivered)

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Shut the inner exporter down, which also ends its waiting between retries."""
        if self.close_once():
            self.inner.shutdown(timeout_millis=timeout_millis)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Ask the inner exporter."""
        return not self.usable() or self.inner.force_flush(timeout_millis)


def _points(data: MetricsData) -> int:
    return sum(
        len(metric.data.data_points)
        for of_resource in data.resource_metrics
        for of_scope in of_resource.scope_metrics
        for metric in of_scope.metrics
    )


def metric_exporters(settings: Settings) -> list[CountingMetricExporter]:
    """The exporters that the settings name for metrics."""
    return [_metric_exporter(settings, name) for name in settings.exporters("metrics")]


def _metric_exporter(settings: Settings, name: str) -> CountingMetricExporter:
    if name == "console":
        from opentelemetry.sdk.metrics.export import ConsoleMetricExporter

        return CountingMetricExporter(
            Delivery("metrics", "console", "stdout"), lambda _: ConsoleMetricExporter(out=sys.stdout)
        )
    target = otlp_target(settings, "metrics", name)

    def inner(counting: _Counting) -> MetricExporter:
        if target.protocol == "grpc":
            from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetricExporter

            return GrpcMetricExporter(**_grpc_arguments(target))
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

        return OTLPMetricExporter(**_http_arguments(target, counting.read_answer))

    delivery = Delivery("metrics", "otlp", target.shown)
    return built(target, lambda: CountingMetricExporter(delivery, inner))


def otlp_target(settings: Settings, signal: Signal, name: str) -> Target:
    """Where this signal goes; `ConfigurationError` where the exporter is none of ours."""
    if name != "otlp":
        raise ConfigurationError(
            f"OTEL_{signal.upper()}_EXPORTER names {name!r}, which otel_agentbus does not build: set it to otlp, "
            f"console or none, or pass your own provider to connect()."
        )
    return settings.target(signal)


def built(target: Target, build: Callable[[], _T]) -> _T:
    """What an official exporter refuses on its own account is a wrong setting, too."""
    try:
        return build()
    except ConfigurationError:
        raise
    except Exception as error:
        problem = f"the {target.protocol} exporter for {target.signal} to {target.shown} cannot be made"
        raise ConfigurationError(f"{problem}: {type(error).__name__}: {error}") from error


def _http_arguments(target: Target, on_answer: Callable[..., None]) -> dict[str, Any]:
    from opentelemetry.exporter.otlp.proto.http import Compression

    session = http_session(target)
    session.hooks["response"].append(on_answer)
    return {
        "endpoint": target.endpoint,
        "certificate_file": target.certificate or True,  # not None: 1.42 takes an empty variable for "do not verify"
        "client_key_file": target.client_key,
        "client_certificate_file": target.client_certificate,
        "headers": dict(target.headers),
        "timeout": target.timeout,
        "compression": Compression({"gzip": "gzip", "deflate": "deflate"}.get(target.compression, "none")),
        "session": session,
    }


def _grpc_arguments(target: Target) -> dict[str, Any]:
    return {
        "endpoint": target.endpoint,
        "insecure": target.insecure,
        "credentials": grpc_credentials(target),
        "headers": target.headers or ",",  # not empty: it would fall back to the environment
        "timeout": target.timeout,
        "compression": grpc_compression(target),
    }


def http_session(target: Target) -> requests.Session:
    """The session of an HTTP exporter: the user's credential plugin's, else a new one."""
    import requests

    class Session(requests.Session):
        def merge_environment_settings(self, *arguments: Any, **options: Any) -> Any:
            """Let REQUESTS_CA_BUNDLE not outdo the authority that the settings name, as it would."""
            merged = super().merge_environment_settings(*arguments, **options)
            return {**merged, "verify": target.certificate} if target.certificate else merged

    session: requests.Session = _plugin(target.credential_provider) or Session()
    if target.withheld:
        session.auth = partial(_withhold, target.withheld)
    return session


def _withhold(names: frozenset[str], request: requests.PreparedRequest) -> requests.PreparedRequest:
    for name in names:
        request.headers.pop(name, None)
    return request


def grpc_credentials(target: Target) -> grpc.ChannelCredentials | None:
    """The TLS credentials of a gRPC channel; None for plain text."""
    import grpc

    if target.insecure:
        return None
    files = (target.certificate, target.client_key, target.client_certificate)
    plugin: grpc.ChannelCredentials | None = _plugin(target.credential_provider)
    return plugin or grpc.ssl_channel_credentials(*(_read(file) for file in files))


def grpc_compression(target: Target) -> grpc.Compression:
    """The compression of a gRPC channel; the exporter itself fails on an environment that says none."""
    import grpc

    return grpc.Compression.Gzip if target.compression == "gzip" else grpc.Compression.NoCompression


def _read(path: str | None) -> bytes | None:
    if path is None:
        return None
    with open(path, "rb") as file:
        return file.read()


def _plugin(name: str | None) -> Any:
    if name is None:
        return None
    found = list(entry_points(group="opentelemetry_otlp_credential_provider", name=name))
    if not found:
        raise ConfigurationError(f"The credential provider {name!r} is not installed: install the package that has it.")
    return found[0].load()()


def partial_success(signal: Signal, response: requests.Response) -> tuple[int, str]:
    """How many items the receiver took and then refused, and its words; whatever cannot be read counts as none."""
    if not response.content:
        return 0, ""
    try:
        if "json" in response.headers.get("content-type", ""):
            said = json.loads(response.content).get("partialSuccess", {})
            return int(said.get(f"rejected{_item(signal).title().replace('_', '')}", 0)), said.get("errorMessage", "")
        return rejections(signal, _answer_type(signal).FromString(response.content))
    except Exception:  # noqa: BLE001 - somebody else's bytes, read only to count better
        return 0, ""


def rejections(signal: Signal, answer: Any) -> tuple[int, str]:
    """The same from the receiver's protobuf answer."""
    said = answer.partial_success
    return getattr(said, f"rejected_{_item(signal)}"), said.error_message


def _item(signal: Signal) -> str:
    return "spans" if signal == "traces" else "data_points"


def _answer_type(signal: Signal) -> Any:
    from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

    return ExportTraceServiceResponse if signal == "traces" else ExportMetricsServiceResponse
