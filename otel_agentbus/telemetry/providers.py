"""The providers that spans and metrics go to: the application's where it has some, else our own from the settings."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, TypeVar
from weakref import WeakSet

from opentelemetry import metrics, trace

from otel_agentbus._version import __version__
from otel_agentbus.errors import ConfigurationError
from otel_agentbus.settings import Settings
from otel_agentbus.telemetry.tracer import can_prepare, our_tracer
from otel_agentbus.values import RATIO_SAMPLERS, SIGNALS, Signal

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import Sampler

    from otel_agentbus.telemetry.export import CountingMetricExporter, Delivery
    from otel_agentbus.telemetry.ways import SpanWay

_log = logging.getLogger("otel_agentbus")
_P = TypeVar("_P")
#: Our own providers that are, or in the parent process were, the global ones.
_installed: WeakSet[object] = WeakSet()


@dataclass(slots=True)
class Pipeline:
    """Where telemetry leaves the process, and who owns the way; only what we own is flushed and shut down by us."""

    settings: Settings
    tracer_provider: trace.TracerProvider | None = None
    meter_provider: metrics.MeterProvider | None = None
    owns_traces: bool = False
    owns_metrics: bool = False
    endpoints: dict[Signal, str] = field(default_factory=dict)
    #: One sentence for each signal, for `health()` and `doctor`.
    description: dict[Signal, str] = field(default_factory=dict)
    #: Our own ways out for spans, one for each exporter.
    ways: list[SpanWay] = field(default_factory=list)
    metric_exporters: list[CountingMetricExporter] = field(default_factory=list)
    _tracing: TracerProvider | None = None
    _metering: MeterProvider | None = None

    @property
    def deliveries(self) -> list[Delivery]:
        """How many data points our own exporters of metrics have delivered and lost so far."""
        return [exporter.delivery for exporter in self.metric_exporters]

    def described(self) -> trace.TracerProvider:
        """The provider whose resource, limits and sampler this process's spans have; one like ours if there is none."""
        if getattr(self.tracer_provider, "resource", None) is None:
            if self._tracing is None:
                self._tracing = make_tracer_provider(self.settings, make_resource(self.settings))
            return self._tracing
        assert self.tracer_provider is not None
        return self.tracer_provider

    def resolve(self) -> bool:
        """Look again for providers of the application, which may set them after us; whether one was found."""
        found = False
        if self.settings.sdk_disabled:
            return found
        if self.tracer_provider is None and (tracing := application_tracer_provider()) is not None:
            self.tracer_provider, found = tracing, True
            self.description["traces"] = _of_application(tracing)
        if self.meter_provider is None and (metering := application_meter_provider()) is not None:
            self.meter_provider, found = metering, True
            self.description["metrics"] = _of_application(metering)
        return found

    def flush_spans(self, deadline: float) -> bool:
        """Deliver the spans that have ended; whether the endpoints took them by the (monotonic) deadline."""
        flushed = [way.flush(until) for way, until in self._shared(deadline)]  # each, whatever the others say
        return all(flushed)

    def close_spans(self, deadline: float) -> bool:
        """Deliver the spans that have ended, or keep them on disk; whether the endpoints took them by the deadline."""
        closed = [way.close(until) for way, until in self._shared(deadline)]
        return all(closed)

    def _shared(self, deadline: float) -> Iterator[tuple[SpanWay, float]]:
        """Each way out with its own deadline: one that hangs leaves the next ones their part of the time."""
        for index, way in enumerate(self.ways):
            now = time.monotonic()
            yield way, now + max(deadline - now, 0.0) / (len(self.ways) - index)

    def flush_metrics(self, timeout: float) -> bool:
        """Export the metrics as they are; False when some were lost. May block for longer: see `cut`."""
        lost = self._lost()
        return (self._metering is None or _quietly(self._metering.force_flush, timeout)) and self._lost() == lost

    def shut_down(self, timeout: float) -> None:
        """End our own providers, the metrics' first: a foreign processor on ours may block."""
        if self._metering is not None:
            _quietly(self._metering.shutdown, timeout)
        if self._tracing is not None:
            shut_down = self._tracing.shutdown
            _quietly(lambda _: shut_down(), timeout)

    def cut(self) -> None:
        """Stop sending metrics at once: what waits for an endpoint comes back soon; the rest counts as failed."""
        for exporter in self.metric_exporters:
            exporter.shutdown()

    def abandon(self) -> None:
        """In a forked child: end the inherited threads of our providers; their exporters send nothing here anyway."""
        for exporter in self.metric_exporters:
            exporter.closed = True
        if self._tracing is not None and self._tracing is trace.get_tracer_provider():
            self._tracing = None  # the application goes on using it: `build` adds the new exporters to it
        for way in self.ways:
            way.abandon()
        # Beside us, because a lock of the SDK's may have been inherited locked.
        threading.Thread(target=self.shut_down, args=(1.0,), name="otel_agentbus.abandon", daemon=True).start()

    def _lost(self) -> int:
        return sum(delivery.failed + delivery.rejected for delivery in self.deliveries)


def _quietly(step: Callable[[int], object], timeout: float) -> bool:
    try:
        return step(max(1, int(timeout * 1000))) is not False
    except Exception:  # noqa: BLE001 - the SDK raises bare exceptions on timeouts; the agent must not see them
        _log.debug("flushing or shutting down a provider failed", exc_info=True)
        return False


def build(
    settings: Settings,
    *,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
    set_global: bool | None = None,
) -> Pipeline:
    """Find or make the providers: those given, else the application's global ones, else our own from the settings.

    Called again in a forked child it makes fresh exporters. `set_global` of None means what the settings say.
    """
    pipeline = Pipeline(settings, tracer_provider, meter_provider)
    if tracer_provider is not None:
        pipeline.description["traces"] = f"{_of_application(tracer_provider)}, as given to connect()"
    if meter_provider is not None:
        pipeline.description["metrics"] = f"{_of_application(meter_provider)}, as given to connect()"
    pipeline.resolve()
    _build_own(pipeline)
    for signal in SIGNALS:
        pipeline.description.setdefault(signal, _nowhere(settings, signal))
    if settings.set_global if set_global is None else set_global:
        _install(pipeline)
    return pipeline


def application_tracer_provider() -> trace.TracerProvider | None:
    """The tracer provider that the application has set as global, be it the SDK's or another's."""
    return _found(trace.get_tracer_provider)


def application_meter_provider() -> metrics.MeterProvider | None:
    """The meter provider that the application has set as global, be it the SDK's or another's."""
    return _found(metrics.get_meter_provider)


def _found(getter: Callable[[], _P]) -> _P | None:
    """Nothing is set where the API answers with a class of its own, a proxy or a no-op, or with what we installed."""
    try:
        provider = getter()  # loads the provider that OTEL_PYTHON_TRACER_PROVIDER names, if the user has set that
    except Exception:  # noqa: BLE001 - a provider that cannot be loaded is the application's trouble, not its end
        _log.warning("the application's global OpenTelemetry provider cannot be loaded", exc_info=True)
        return None
    of_api = type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))
    ours = any(provider is one for one in _installed)  # not `in`: Logfire's provider cannot be hashed
    return None if of_api or ours else provider


def _of_application(provider: object) -> str:
    kind = type(provider)
    return f"the application's own provider ({kind.__module__}.{kind.__qualname__}), nothing added to it"


def _nowhere(settings: Settings, signal: Signal) -> str:
    if settings.sdk_disabled:
        return "off: OTEL_SDK_DISABLED is true"
    variable = f"OTEL_{signal.upper()}_EXPORTER"
    if getattr(settings, f"{signal}_exporter") == ():
        return f"not exported: {variable} is none"
    return f"not exported: neither OTEL_EXPORTER_OTLP_ENDPOINT nor {variable} is set"


def _build_own(pipeline: Pipeline) -> None:
    """Fill in what the application does not have and the settings ask for."""
    settings = pipeline.settings
    if settings.relays:  # then it is for the sampler, and for what is current in the caller
        if not _is_prepared(pipeline.tracer_provider):  # another vendor's: it would make spans beside the relay's
            pipeline.tracer_provider = None
        pipeline.tracer_provider = pipeline.described()
        pipeline.description["traces"] = "made by a relay, of the events that the broker takes"
    for_traces = pipeline.tracer_provider is None and settings.exports_traces
    for_metrics = pipeline.meter_provider is None and settings.exports_metrics
    if not (for_traces or for_metrics):
        return
    from otel_agentbus.telemetry.export import metric_exporters
    from otel_agentbus.telemetry.ways import SpanWay, span_exits

    pipeline.metric_exporters = metric_exporters(settings) if for_metrics else []
    exits = span_exits(settings) if for_traces else []
    resource = make_resource(settings)
    if for_metrics:
        pipeline.meter_provider = pipeline._metering = _make_meter_provider(
            settings, resource, pipeline.metric_exporters
        )
        pipeline.owns_metrics = True
        for delivery in pipeline.deliveries:
            _describe(pipeline, "metrics", delivery.exporter, delivery.endpoint)
    if for_traces:
        meter_provider = pipeline._metering or metrics.NoOpMeterProvider()  # else it would ask for the global one
        pipeline.ways = [SpanWay.through(exit_, settings, meter_provider) for exit_ in exits]
        pipeline.tracer_provider = pipeline._tracing = make_tracer_provider(settings, resource)
        pipeline.owns_traces = True
        for way in pipeline.ways:
            pipeline._tracing.add_span_processor(way.processor)
            _describe(pipeline, "traces", way.exporter, way.endpoint)


def _is_prepared(provider: trace.TracerProvider | None) -> bool:
    return provider is not None and can_prepare(our_tracer(provider))


def _describe(pipeline: Pipeline, signal: Signal, exporter: str, endpoint: str) -> None:
    how, before = f"{exporter} to {endpoint}", pipeline.description.get(signal)
    pipeline.description[signal] = f"{before} and {how}" if before else f"our own pipeline, {how}"
    if exporter == "otlp":
        pipeline.endpoints[signal] = endpoint


def _install(pipeline: Pipeline) -> None:
    """Make our own providers the global ones, as asked; nothing replaces those that are set already."""
    if pipeline._tracing is not None:
        current = trace.get_tracer_provider()
        if current in _installed and isinstance(current, type(pipeline._tracing)):
            for way in pipeline.ways:  # we are a forked child: what was our parent's leads to us now
                current.add_span_processor(way.processor)
        else:
            trace.set_tracer_provider(pipeline._tracing)
            _installed.add(pipeline._tracing)
    if pipeline._metering is not None and metrics.get_meter_provider() not in _installed:
        metrics.set_meter_provider(pipeline._metering)
        _installed.add(pipeline._metering)


def make_resource(settings: Settings) -> Resource:
    """What describes this process, made once for spans and metrics: two calls would give it two instance ids."""
    from opentelemetry.sdk.resources import Resource

    attributes = {"telemetry.distro.name": "otel_agentbus", "telemetry.distro.version": __version__}
    attributes.update(settings.resource_attributes)
    if settings.service_name:
        attributes["service.name"] = settings.service_name
    return Resource.create(attributes)


def span_limits(settings: Settings) -> dict[str, int | None]:
    """The limits of a span, by the names that the SDK gives them; None is no limit."""

    def or_general(value: int | None) -> int | None:
        return settings.attribute_limit if value is None else value

    length, span_length = settings.attribute_length_limit, settings.span_attribute_length_limit
    return {
        "max_attributes": settings.attribute_limit,
        "max_events": settings.span_event_limit,
        "max_links": settings.span_link_limit,
        "max_span_attributes": or_general(settings.span_attribute_limit),
        "max_event_attributes": or_general(settings.event_attribute_limit),
        "max_link_attributes": or_general(settings.link_attribute_limit),
        "max_attribute_length": length,
        "max_span_attribute_length": length if span_length is None else span_length,
    }


def make_tracer_provider(settings: Settings, resource: Resource) -> TracerProvider:
    """A provider of our own: the settings' sampler and limits, ids that no seed repeats, ended by nobody but us."""
    from opentelemetry.sdk.trace import SpanLimits, TracerProvider

    from otel_agentbus.telemetry.export import UnseededIds

    limits = {  # None would make the SDK read the environment again
        name: SpanLimits.UNSET if value is None else value for name, value in span_limits(settings).items()
    }
    return TracerProvider(
        sampler=_make_sampler(settings),
        resource=resource,
        shutdown_on_exit=False,
        id_generator=UnseededIds(),
        span_limits=SpanLimits(**limits),
    )


def _make_meter_provider(
    settings: Settings, resource: Resource, exporters: Sequence[CountingMetricExporter]
) -> MeterProvider:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    readers = [
        PeriodicExportingMetricReader(exporter, settings.metric_interval_ms, settings.metric_timeout_ms)
        for exporter in exporters
    ]
    return MeterProvider(readers, resource=resource, shutdown_on_exit=False)


def _make_sampler(settings: Settings) -> Sampler:
    """The sampler that the settings name; what is not the SDK's is a plug-in, which gets the argument as text."""
    from opentelemetry.sdk.trace import sampling

    share = float(settings.sampler_arg or 1.0) if settings.sampler in RATIO_SAMPLERS else 1.0
    known = {
        "always_on": sampling.ALWAYS_ON,
        "always_off": sampling.ALWAYS_OFF,
        "parentbased_always_on": sampling.DEFAULT_ON,
        "parentbased_always_off": sampling.DEFAULT_OFF,
        "traceidratio": sampling.TraceIdRatioBased(share),
        "parentbased_traceidratio": sampling.ParentBasedTraceIdRatio(share),
    }
    if settings.sampler in known:
        return known[settings.sampler]
    try:
        factory = next(iter(entry_points(group="opentelemetry_traces_sampler", name=settings.sampler))).load()
        sampler: Sampler = factory(settings.sampler_arg or "")
    except Exception as error:
        problem = f"OTEL_TRACES_SAMPLER is {settings.sampler!r}: that plug-in cannot be made: {error}"
        raise ConfigurationError(problem) from error
    return sampler
