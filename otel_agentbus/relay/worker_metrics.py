"""How a relay worker is, as ordinary metrics of its own process: what it applied, what waits, what was lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Self

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from ..settings import Settings
from ..telemetry import instruments, names
from ..telemetry.instruments import Metric
from ..telemetry.series import instruments_of


class RelayNumbers(NamedTuple):
    """What a worker says of itself and of its group. None where it does not know."""

    #: Events that this worker has read and applied, and spans of it that the endpoint took.
    events: int | None = None
    spans: int | None = None
    #: Runs that are open in the shards that this worker owns.
    open_runs: int | None = None
    #: Of all shards together: events that the group has not acknowledged, and those that were lost by the bound.
    lag: int | None = None
    trimmed: int | None = None


#: What tells the numbers of now: asked by the thread that collects, once for each export. May raise OSError.
Read = Callable[[], RelayNumbers]


def watch(provider: MeterProvider, group: str, read: Read) -> None:
    """Have these numbers asked for whenever this provider collects."""
    made = instruments_of(provider)
    asked = _Asked(read)
    for key, metric in instruments.RELAY.items():
        made.observe(metric, asked.observer(metric, key, {names.RELAY_GROUP: group}))


class _Asked:
    """Asks once for all instruments: the one that is collected a second time begins another collection."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._said: RelayNumbers | None = None
        self._told: set[str] = set()

    def observer(
        self, metric: Metric, key: str, attributes: dict[str, str]
    ) -> Callable[[CallbackOptions], list[Observation]]:
        def observe(_options: CallbackOptions) -> list[Observation]:
            value = getattr(self._numbers(key), key)
            return [] if value is None else [Observation(value, attributes)]

        return observe

    def _numbers(self, key: str) -> RelayNumbers:
        if self._said is None or key in self._told:
            self._told = set()
            try:
                self._said = self._read()
            except OSError:  # the store is away: what it would say has no points meanwhile
                self._said = RelayNumbers()
        self._told.add(key)
        return self._said


class WorkerMetrics:
    """Exports a worker's numbers as the settings say, until it is closed; nothing where there is no endpoint.

    Raises:
        ConfigurationError: the settings name an exporter that cannot be made.

    """

    def __init__(self, settings: Settings, group: str, read: Read) -> None:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        from ..telemetry.export import metric_exporters
        from ..telemetry.providers import make_resource

        self._timeout_ms = settings.metric_timeout_ms
        self._provider: MeterProvider | None = None
        if settings.exports_metrics:
            interval = settings.metric_interval_ms
            readers = [
                PeriodicExportingMetricReader(exporter, interval, settings.metric_timeout_ms)
                for exporter in metric_exporters(settings)
            ]
            self._provider = MeterProvider(readers, resource=make_resource(settings), shutdown_on_exit=False)
            watch(self._provider, group, read)

    def close(self, timeout: float) -> None:
        """Export once more, and end."""
        if self._provider is not None:
            try:
                self._provider.shutdown(timeout_millis=timeout * 1000)
            except Exception:  # noqa: BLE001 - the SDK raises bare exceptions on timeouts; the worker ends all the same
                pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close(self._timeout_ms / 1000)
