"""The metrics of a replay, for those who ask for them: counted again, for each source with its own resource."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import ConfigurationError
from ..events import Event
from ..recording import Recorded
from ..settings import Settings
from ..telemetry.ids import Ids
from ..telemetry.metrics import MetricsBridge
from .origin import flavour_of, resource_of

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics import MeterProvider


class Counting:
    """Bridges to meter providers as the settings say, one for each source.

    Raises:
        ConfigurationError: the settings say of no endpoint for metrics.

    """

    def __init__(self, settings: Settings) -> None:
        if not settings.exports_metrics:
            raise ConfigurationError(
                "There is nowhere to send metrics to: set OTEL_EXPORTER_OTLP_ENDPOINT to the URL of your receiver."
            )
        self._settings = settings
        self._made: list[tuple[MetricsBridge, MeterProvider]] = []

    def bridge_for(self, source: Recorded) -> Callable[[Event], None]:
        """What counts the events of this source, which have passed a ledger."""
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        from ..telemetry.export import metric_exporters

        settings = self._settings
        readers = [
            PeriodicExportingMetricReader(exporter, export_interval_millis=math.inf)
            for exporter in metric_exporters(settings)
        ]
        resource = resource_of(source.opening, settings)
        provider = MeterProvider(readers, resource=resource, shutdown_on_exit=False)
        ids = Ids(settings.id_key.get_secret_value())
        flavour = flavour_of(source.opening, settings)
        bridge = MetricsBridge(provider, conventions=flavour, entered=True, ids=ids)
        self._made.append((bridge, provider))
        return bridge

    def close(self) -> None:
        """Send what was counted."""
        for bridge, provider in self._made:
            bridge.settle(self._settings.exit_timeout)
            provider.force_flush(self._settings.metric_timeout_ms)
            provider.shutdown(self._settings.metric_timeout_ms)
            bridge.close()
