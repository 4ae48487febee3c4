"""Bounded series: whatever names come in, a metric has only so many attribute sets, and its sums stay right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from threading import RLock
from typing import Any, Generic, TypeVar
from weakref import ref

from opentelemetry.metrics import CallbackOptions, Histogram, MeterProvider, Observation

from otel_agentbus._version import __version__

from . import instruments
from .attributes import text
from .instruments import Metric
from .recent import Recent
from .vitals import Vitals

#: How long a name may be in a metric, and how many different ones an attribute may have.
NAME_LENGTH = 128
NAMES = 200
#: The SDK folds what exceeds 2,000 attribute sets of an instrument into one without names; we stay below it.
SETS = 1900
OTHER = "other"

_CACHED = 4096

K = TypeVar("K")
V = TypeVar("V")


def _name(value: object) -> str | None:
    return text(value, NAME_LENGTH)


class Names:
    """The values of one attribute: the first so many as they are, all later ones together."""

    __slots__ = ("_clean", "_known", "attribute", "limit", "other")

    def __init__(
        self,
        attribute: str,
        limit: int = NAMES,
        clean: Callable[[object], str | None] = _name,
        other: str = OTHER,
    ) -> None:
        self.attribute = attribute
        self.other = other
        self.limit = limit
        self._clean = clean
        self._known: set[str] = set()

    def of(self, value: object) -> str | None:
        """The value as the metric may show it; None where there is none."""
        found = self._clean(value)
        if found is None:
            return None
        found = found[:NAME_LENGTH]
        if found in self._known:
            return found
        if len(self._known) >= self.limit:
            return self.other
        self._known.add(found)
        return found

    def folded(self, value: str | None) -> bool:
        """Whether this is what all later names became, and not a name itself."""
        return value == self.other and value not in self._known


class Labels:
    """One attribute set, made once and then shared by everything that is measured under it."""

    __slots__ = ("attributes", "folded")

    def __init__(self, attributes: dict[str, str], *, folded: bool) -> None:
        self.attributes = attributes
        self.folded = folded


class Dimensions:
    """From the values that an event has to one of at most so many attribute sets."""

    def __init__(self, *attributes: Names, limit: int = SETS) -> None:
        self.overflowed = 0
        self._names = attributes
        self._limit = limit
        self._lock = RLock()
        self._cache: dict[tuple[object, ...], Labels] = {}
        self._sets: dict[tuple[str | None, ...], Labels] = {}

    def of(self, *values: object) -> Labels:
        """The attribute set for these values, given in the order of the attributes."""
        try:
            labels = self._cache.get(values)
        except Exception:  # noqa: BLE001 - what stands where a name should be may not be hashable, or raise what it likes
            labels = None
        if labels is None or labels.folded:
            with self._lock:
                labels = labels or self._find(values)
                self.overflowed += labels.folded
        return labels

    def _find(self, values: tuple[object, ...]) -> Labels:
        key = tuple(known.of(value) for known, value in zip(self._names, values, strict=True))
        labels = self._sets.get(key)
        if labels is None and len(self._sets) < self._limit:
            folded = any(known.folded(value) for known, value in zip(self._names, key, strict=True))
            labels = self._make(key, folded=folded)
        elif labels is None:
            key = tuple(None if value is None else known.other for known, value in zip(self._names, key, strict=True))
            labels = self._sets.get(key) or self._make(key, folded=True)
        if all(value is None or (value.__class__ is str and len(value) <= NAME_LENGTH) for value in values):
            if len(self._cache) >= _CACHED:
                self._cache.clear()  # the sets stay: the same values find the same labels again
            self._cache[values] = labels
        return labels

    def _make(self, key: tuple[str | None, ...], *, folded: bool) -> Labels:
        told = {known.attribute: value for known, value in zip(self._names, key, strict=True) if value is not None}
        labels = self._sets[key] = Labels(told, folded=folded)
        return labels

    def forget(self) -> None:
        """A lock of its own, in the child of a fork; names and sets are no counts and may stay."""
        self._lock = RLock()
        self.overflowed = 0


class Tally:
    """The running sums of one counter, observed when a reader collects.

    Adding to a dict costs a twentieth of the SDK's `Counter.add`, and a model call adds to eight counters.
    """

    def __init__(self, attribute: str | None = None) -> None:
        self._attribute = attribute
        self._lock = RLock()
        self._sums: dict[tuple[Labels, str | None], float] = {}

    def add(self, labels: Labels, amount: float = 1, kind: str | None = None) -> None:
        """Add under these labels and, for a counter that tells kinds apart, under this kind (one of a fixed few)."""
        key = (labels, kind)
        with self._lock:
            self._sums[key] = self._sums.get(key, 0) + amount

    def observe(self, _options: CallbackOptions) -> list[Observation]:
        """The sums, as OpenTelemetry asks for them."""
        with self._lock:
            sums = list(self._sums.items())
        return [Observation(value, self._attributes(labels, kind)) for (labels, kind), value in sums]

    def _attributes(self, labels: Labels, kind: str | None) -> Mapping[str, str]:
        if kind is None or self._attribute is None:
            return labels.attributes
        return {**labels.attributes, self._attribute: kind}

    def forget(self) -> None:
        """Start from nothing, with a lock of its own: in the child of a fork, where another thread may have held it."""
        self._lock = RLock()
        self._sums = {}


class Pending(Generic[K, V]):
    """What waits for its end: at most so many, the oldest are given up."""

    def __init__(self, limit: int, give_up: Callable[[V], None] | None = None) -> None:
        self._limit = limit
        self._give_up = give_up
        self._lock = RLock()
        self._waiting: dict[K, V] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, key: K, value: V) -> bool:
        """Let it wait; False where something waits under this key already, which stays."""
        with self._lock:
            if key in self._waiting:
                return False
            self._waiting[key] = value
            oldest = self._waiting.pop(next(iter(self._waiting))) if len(self._waiting) > self._limit else None
        if oldest is not None and self._give_up is not None:
            self._give_up(oldest)
        return True

    def take(self, key: K) -> V | None:
        """What waited under this key, if anything did."""
        with self._lock:
            return self._waiting.pop(key, None)

    def pop(self, key: K) -> tuple[bool, V | None]:
        """Whether something waited under this key, and what."""
        with self._lock:
            return (True, self._waiting.pop(key)) if key in self._waiting else (False, None)

    def look(self, key: K) -> V | None:
        """What waits under this key, which goes on waiting."""
        return self._waiting.get(key)

    def drain(self) -> list[V]:
        """Everything that waits, which waits no longer."""
        with self._lock:
            waiting, self._waiting = list(self._waiting.values()), {}
        return waiting

    def forget(self) -> None:
        """Start from nothing, with a lock of its own: in the child of a fork."""
        self._lock = RLock()
        self._waiting = {}


class Told:
    """What was told before: the latest so many keys."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.forget()

    def again(self, key: K) -> bool:
        """Whether this was told before; from now on it was."""
        with self._lock:
            if self._keys.get(key):
                return True
            self._keys.put(key, True)
            return False

    def knows(self, key: K) -> bool:
        """Whether this was told before."""
        with self._lock:
            return self._keys.get(key) is not None

    def forget(self) -> None:
        """Start from nothing, with a lock of its own: in the child of a fork."""
        self._lock = RLock()
        self._keys: Recent[Any, bool] = Recent(self._limit)


class Instruments:
    """The instruments of one meter provider, their bounded attribute sets and their running sums.

    Each provider has one, because OpenTelemetry never asks a second observable instrument of the same name: a bus that
    is closed and connected again on the application's provider goes on counting where the last one stopped.
    """

    def __init__(self, provider: MeterProvider) -> None:
        self._meter = provider.get_meter("otel_agentbus", __version__)
        self._lock = RLock()
        self._names: dict[str, Names] = {}
        self._dimensions: dict[tuple[str, ...], Dimensions] = {}
        self._tallies: dict[str, Tally] = {}
        #: What is waited for, for a moment, whenever metrics are collected.
        self.settling: list[Callable[[], object]] = []
        self.observe(instruments.OVERFLOWED, self._observe_overflow)

    @cached_property
    def vitals(self) -> Vitals:
        """The health of the pipelines that export through this provider."""
        return Vitals(self)

    @property
    def overflowed(self) -> int:
        """How many measurements had names that were folded into `other`."""
        return sum(dimensions.overflowed for dimensions in list(self._dimensions.values()))

    @property
    def bounds(self) -> dict[str, int]:
        """How many names each attribute may have before further ones become `other`."""
        return {attribute: known.limit for attribute, known in self._names.items()}

    def dimensions(self, *attributes: Names, limit: int = SETS) -> Dimensions:
        """The attribute sets of these attributes; an attribute has one list of names wherever it occurs."""
        key = tuple(known.attribute for known in attributes)
        with self._lock:
            shared = (self._names.setdefault(known.attribute, known) for known in attributes)
            if key not in self._dimensions:
                self._dimensions[key] = Dimensions(*shared, limit=limit)
            return self._dimensions[key]

    def histogram(self, metric: Metric) -> Histogram:
        """The histogram of this name, with the buckets that fit what it measures."""
        buckets = metric.buckets or None
        return self._meter.create_histogram(
            metric.name, metric.unit, metric.description, explicit_bucket_boundaries_advisory=buckets
        )

    def counter(self, metric: Metric, attribute: str | None = None) -> Tally:
        """The counter (or level) of this name; the attribute, if any, tells kinds of which there are a few."""
        with self._lock:
            tally = self._tallies.get(metric.name)
            if tally is None:
                tally = self._tallies[metric.name] = Tally(attribute)
                self.observe(metric, tally.observe)
            return tally

    def observe(self, metric: Metric, callback: Callable[[CallbackOptions], Iterable[Observation]]) -> None:
        """Have this callback asked whenever the metric is collected."""
        create = {
            "counter": self._meter.create_observable_counter,
            "level": self._meter.create_observable_up_down_counter,
            "gauge": self._meter.create_observable_gauge,
        }[metric.kind]
        create(metric.name, [callback], metric.unit, metric.description)

    def forget(self) -> None:
        """Start from nothing, in the child of a fork: what the parent has counted, the parent exports."""
        self._lock = RLock()
        for tally in self._tallies.values():
            tally.forget()
        for dimensions in self._dimensions.values():
            dimensions.forget()
        if "vitals" in self.__dict__:
            self.vitals.forget()

    def _observe_overflow(self, _options: CallbackOptions) -> list[Observation]:
        for settle in tuple(self.settling):
            settle()
        return [Observation(self.overflowed)] if self.overflowed else []


#: By the provider's id, with the provider: Logfire's cannot be hashed.
_opened: dict[int, tuple[ref[MeterProvider], Instruments]] = {}
_opened_lock = RLock()


def instruments_of(provider: MeterProvider | Instruments) -> Instruments:
    """The provider's instruments, made when it is first asked for; who counts without a provider brings its own."""
    if isinstance(provider, Instruments):
        return provider
    with _opened_lock:
        for gone in [id for id, (its, _) in _opened.items() if its() is None]:
            del _opened[gone]
        found = _opened.get(id(provider))
        if found is None:
            found = _opened[id(provider)] = ref(provider), Instruments(provider)
        return found[1]
