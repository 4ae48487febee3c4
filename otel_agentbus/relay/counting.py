"""Counts the events of one shard, for emitters that have no meters: exactly, and apart from what is fed again.

What is counted is handed over with the acknowledgement of the events, and added up in the store in one transaction with
it: a worker that is killed takes with it what was counted of events that nobody has acknowledged, and whoever takes
over counts these again. So every event counts once, whoever dies when.

Levels and gauges say how a living process is; nobody counts these from events, and they are left out.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TypeAlias, cast

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Histogram, NoOpMeterProvider, Observation

from ..events import Event
from ..recording import Opening
from ..recovery.origin import flavour_of, resource_of
from ..settings import Settings
from ..telemetry import instruments
from ..telemetry.instruments import Metric
from ..telemetry.metrics import MetricsBridge
from ..telemetry.names import Flavour
from ..telemetry.series import OTHER, SETS, Instruments, Labels, Tally
from .series import BEGAN, COUNTS, SERIES, Counters, Name, Series, names_in

#: How many resources are told apart in a shard; of later ones the services' names, of so many again.
RESOURCES: Final = 100
#: How many sources are remembered with their resource.
SOURCES: Final = 4096
#: Open runs of which a shard remembers what their ends may not say: relays have many more than a process has.
OPEN_RUNS: Final = 100_000
#: What the SDK, too, gives to the measurements of a metric that has too many series.
OVERFLOW: Final = (("otel.metric.overflow", True),)

#: Attributes of a resource that differ from one process to the next of the same service: series would have no bound.
_OF_ONE_PROCESS = re.compile(
    r"(?:service\.instance|process|thread|host|os|device|container|telemetry"
    r"|k8s\.(?:pod|node|container|replicaset|job)|faas\.(?:instance|invocation_id)|aws\.(?:ecs\.task|log)|heroku\.dyno"
    r"|cloud\.resource_id)(?:\.|_id\b|\Z)"
)

_Pairs: TypeAlias = tuple[tuple[str, Any], ...]


class ShardCounting:
    """What the events of one shard come to, since it was last taken. For one thread.

    `counters` is what the store says of the shard already: the names that it knows stay known, so that the bounds of
    the series hold however often the shard changes its worker.
    """

    def __init__(self, settings: Settings, counters: Counters | None = None) -> None:
        self._settings = settings
        self._known = _by_resource(counters or {})
        self._began = bool((counters or {}).get(BEGAN))
        self._sheets: dict[_Pairs, _Sheet] = {}
        self._bridges: dict[tuple[_Pairs, Flavour], tuple[MetricsBridge, _Counted]] = {}
        self._sources: dict[str | None, MetricsBridge] = {}
        self._quiet = False

    def count(self, event: Event, opening: Opening | None) -> None:
        """Count an event of the emitter with this opening: when it is read for the first time, before it waits."""
        source = None if opening is None else opening.source
        bridge = self._sources.get(source)
        if bridge is None:
            bridge = self._bridge(opening)
            if len(self._sources) >= SOURCES:
                self._sources.clear()
            self._sources[source] = bridge
        bridge(event)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Events that are counted in here are fed again: what is open is known again, and nothing is counted."""
        before, self._quiet = self._quiet, True
        folded = {counted: counted.overflowed for _, counted in self._bridges.values()}
        for sheet in self._sheets.values():
            sheet.quiet = True
        try:
            yield
        finally:
            self._quiet = before
            for sheet in self._sheets.values():
                sheet.quiet = before
            for _, counted in self._bridges.values():
                counted.told += counted.overflowed - folded.get(counted, 0)

    def taken(self, now_ns: int | None = None) -> dict[str, dict[str, int]]:
        """What was counted since the last time, to be added up in the store: by hash and field.

        `now_ns` is the time by the store's clock, which all workers share: it says when these sums began.
        """
        series: dict[str, int] = {}
        counts: dict[str, int] = {}
        for _, counted in self._bridges.values():
            counted.tell_overflow()
        for sheet in self._sheets.values():
            for touched in sheet.taken():
                if not touched.defined:
                    touched.defined = True
                    series[f"{touched.digest} {touched.text}"] = 0
                counts.update(touched.taken())
        if not counts:
            return {}
        found = {SERIES: series, COUNTS: counts}
        if not self._began:
            self._began = True
            found[BEGAN] = {str(now_ns or time.time_ns()): 0}
        return found

    def _bridge(self, opening: Opening | None) -> MetricsBridge:
        resource = self._resource(opening)
        flavour = flavour_of(opening, self._settings)
        found = self._bridges.get((resource, flavour))
        if found is None:
            found = self._bridges[resource, flavour] = self._made(resource, flavour)
        return found[0]

    def _made(self, resource: _Pairs, flavour: Flavour) -> tuple[MetricsBridge, _Counted]:
        known = self._known.get(resource, ())
        sheet = self._sheets.setdefault(resource, _Sheet(resource, known))
        sheet.quiet = self._quiet
        counted = _Counted(sheet)
        bridge = MetricsBridge(counted, conventions=flavour, entered=True, open_runs=OPEN_RUNS)
        counted.admit(known)
        return bridge, counted

    def _resource(self, opening: Opening | None) -> _Pairs:
        pairs = lasting(resource_of(opening, self._settings).attributes)
        service = tuple(pair for pair in pairs if pair[0] == "service.name")
        known = {*self._sheets, *self._known}
        for found, most in ((pairs, RESOURCES), (service, 2 * RESOURCES)):
            if found in known or len(known) < most:
                return found
        return (("service.name", OTHER),)


def lasting(attributes: Mapping[str, Any]) -> _Pairs:
    """What of a resource says more than which process this was, as JSON has it, sorted by name."""
    kept = {str(name): _plain(value) for name, value in attributes.items() if not _OF_ONE_PROCESS.match(str(name))}
    return tuple(sorted(kept.items()))


def _plain(value: Any) -> Any:
    if isinstance(value, str | bool | int | float):
        return value
    return tuple(_plain(item) for item in value) if isinstance(value, list | tuple) else str(value)


def _by_resource(counters: Counters) -> dict[_Pairs, list[Name]]:
    found: dict[_Pairs, list[Name]] = {}
    for _, name in names_in(counters):
        found.setdefault(name.resource, []).append(name)
    return found


class _Sheet:
    """The series of one resource."""

    def __init__(self, resource: _Pairs, known: Iterable[Name]) -> None:
        #: Whether what is counted now was counted before.
        self.quiet = False
        self._resource = resource
        self._found: dict[tuple[str, _Pairs], Series] = {}
        self._series: dict[Name, Series] = {}
        self._touched: dict[Series, None] = {}
        self._numbers: dict[str, int] = {}
        for name in known:
            self._make(name).defined = True

    def of(self, metric: Metric, attributes: Mapping[str, Any]) -> Series:
        """The series of these attributes; of a metric that has too many, the one for all others."""
        key = (metric.name, tuple(attributes.items()))
        series = self._found.get(key)
        if series is None:
            series = self._find(metric, tuple(sorted(key[1])))
            self._found[key] = series
        self._touched[series] = None
        return series

    def taken(self) -> Iterable[Series]:
        """The series to which something was added since the last time."""
        touched, self._touched = self._touched, {}
        return touched

    def _find(self, metric: Metric, attributes: _Pairs) -> Series:
        name = Name(self._resource, metric.name, metric.kind, metric.unit, metric.buckets, attributes)
        if name not in self._series and self._numbers.get(metric.name, 0) >= SETS:
            name = name._replace(attributes=OVERFLOW)
        return self._series.get(name) or self._make(name)

    def _make(self, name: Name) -> Series:
        self._numbers[name.metric] = self._numbers.get(name.metric, 0) + 1
        series = self._series[name] = Series(name)
        return series


class _Counted(Instruments):
    """Instruments whose measurements go to a sheet, one by one and as they are: no provider adds them up as floats."""

    def __init__(self, sheet: _Sheet) -> None:
        self._sheet = sheet
        #: So many measurements with names beyond the bounds are in the sheet, or were told before.
        self.told = 0
        super().__init__(NoOpMeterProvider())

    def histogram(self, metric: Metric) -> Histogram:
        """What measures into the sheet."""
        return cast("Histogram", _Measured(self._sheet, metric))

    def counter(self, metric: Metric, attribute: str | None = None) -> Tally:
        """What adds to the sheet; a level is nobody's here."""
        tally = self._tallies.get(metric.name)
        if tally is None:
            kind = _Added if metric.kind == "counter" else _Left
            tally = self._tallies[metric.name] = kind(self._sheet, metric, attribute)
        return tally

    def observe(self, metric: Metric, callback: Callable[[CallbackOptions], Iterable[Observation]]) -> None:
        """Nothing is asked for here: what can be observed is a living process."""

    def admit(self, known: Iterable[Name]) -> None:
        """Let the names that are known already be the first ones."""
        for name in known:
            for attribute, value in name.attributes:
                names = self._names.get(attribute)
                if names is not None and value != names.other:
                    names.of(value)

    def tell_overflow(self) -> None:
        """Count the measurements whose names were folded since the last time."""
        new, self.told = self.overflowed - self.told, self.overflowed
        if new:
            self._sheet.of(instruments.OVERFLOWED, {}).add(new)


class _Measured:
    """A histogram, as far as a bridge knows one."""

    def __init__(self, sheet: _Sheet, metric: Metric) -> None:
        self._sheet = sheet
        self._metric = metric

    def record(self, amount: float, attributes: Mapping[str, Any], _context: Context | None = None) -> None:
        """Take a measurement."""
        if not self._sheet.quiet:
            self._sheet.of(self._metric, attributes).measure(amount)


class _Added(Tally):
    """A counter."""

    def __init__(self, sheet: _Sheet, metric: Metric, attribute: str | None) -> None:
        super().__init__(attribute)
        self._sheet = sheet
        self._metric = metric

    def add(self, labels: Labels, amount: float = 1, kind: str | None = None) -> None:
        """Add to the series of these labels, and of this kind."""
        if not self._sheet.quiet:
            self._sheet.of(self._metric, self._attributes(labels, kind)).add(amount)


class _Left(_Added):
    """A level, which is left out."""

    def add(self, labels: Labels, amount: float = 1, kind: str | None = None) -> None:
        """Nothing is counted."""
