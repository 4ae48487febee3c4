"""Sums in a store: how what was counted becomes integers that any number of workers add up, and metrics again.

A store adds up integers and nothing else, so a sum of decimals is kept in three: wholes, billionths, and billionths of
those. Each measurement is taken as it is written (0.1 is a tenth), to the eighteenth place; from there on no rounding
follows, in whatever portions it is added up. A field is the series' digest and the part of it; what the digests stand
for is kept beside, once.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypeAlias

#: What is added up in a store: integers by the name of their field, by the name of a hash.
Counters: TypeAlias = Mapping[str, Mapping[str, "int | str"]]

#: The hashes in the store: what the digests stand for, the sums, and when they began.
SERIES: Final = "metrics.series"
COUNTS: Final = "metrics.counts"
BEGAN: Final = "metrics.began"

#: The parts of a sum beside the buckets: wholes, billionths (there where decimals were added), billionths of those.
_WHOLE, _NANO, _ATTO = "n", "m", "a"
_BILLION = 10**9
_UNITS = 10**18
_EXACT = Context(prec=60)


class Name(NamedTuple):
    """Which series this is: of which resource and instrument, and its attributes; each sorted by name."""

    resource: tuple[tuple[str, Any], ...]
    metric: str
    kind: str
    unit: str
    bounds: tuple[float, ...]
    attributes: tuple[tuple[str, Any], ...]

    def write(self) -> str:
        """The series in JSON, the same wherever it is written."""
        return json.dumps(self, separators=(",", ":"))

    @classmethod
    def read(cls, text: str) -> Name | None:
        """The series in this JSON; None where a later version has said something else."""
        try:
            resource, metric, kind, unit, bounds, attributes = json.loads(text)
            return cls(_pairs(resource), metric, kind, unit, tuple(bounds), _pairs(attributes))
        except (TypeError, ValueError):
            return None


def _pairs(found: Iterable[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    return tuple((name, tuple(value) if isinstance(value, list) else value) for name, value in found)


class Series:
    """What was added to one series since it was last taken."""

    __slots__ = ("_buckets", "_decimal", "_units", "_whole", "bounds", "defined", "digest", "text")

    def __init__(self, name: Name) -> None:
        self.text = name.write()
        self.digest = blake2b(self.text.encode(), digest_size=8, person=b"agentbus.series").hexdigest()
        self.bounds = name.bounds
        #: Whether the store has been told what the digest stands for.
        self.defined = False
        self._empty()

    def _empty(self) -> None:
        self._whole = 0
        self._units = 0
        self._decimal = False
        self._buckets: dict[int, int] = {}

    def add(self, amount: float) -> None:
        """Add to the sum."""
        if isinstance(amount, int):
            self._whole += amount
        else:
            self._units += round(_EXACT.scaleb(Decimal(repr(amount)), 18))
            self._decimal = True

    def measure(self, amount: float) -> None:
        """Add to the sum and to the bucket of the amount."""
        bucket = bisect_left(self.bounds, amount)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.add(amount)

    def taken(self) -> Iterator[tuple[str, int]]:
        """The fields of the store and what is to be added to them; from now on this is empty."""
        wholes, units = divmod(self._units, _UNITS)
        yield f"{self.digest}.{_WHOLE}", self._whole + wholes
        if self._decimal:
            yield f"{self.digest}.{_NANO}", units // _BILLION
            yield f"{self.digest}.{_ATTO}", units % _BILLION
        for bucket, number in self._buckets.items():
            yield f"{self.digest}.{bucket}", number
        self._empty()


@dataclass(slots=True)
class Total:
    """What one series comes to."""

    name: Name
    whole: int = 0
    units: int = 0
    decimal: bool = False
    buckets: dict[int, int] = field(default_factory=dict)

    @property
    def sum(self) -> int | float:
        """All amounts together: the float that is nearest to their exact sum, where they were no integers."""
        return (self.whole * _UNITS + self.units) / _UNITS if self.decimal else self.whole

    @property
    def counts(self) -> list[int]:
        """How many measurements fell into each bucket; the last one is of those above all bounds."""
        return [self.buckets.get(number, 0) for number in range(len(self.name.bounds) + 1)]

    def add(self, part: str, number: int) -> None:
        """Add what one store says of a part of it."""
        if part == _WHOLE:
            self.whole += number
        elif part == _NANO:
            self.decimal = True
            self.units += number * _BILLION
        elif part == _ATTO:
            self.units += number
        else:
            self.buckets[int(part)] = self.buckets.get(int(part), 0) + number


def totals(stores: Iterable[Counters]) -> list[Total]:
    """What all these stores together say of each series, sorted by series."""
    found: dict[str, Total] = {}
    stores = list(stores)
    for store in stores:
        for digest, name in names_in(store):
            found.setdefault(digest, Total(name))
    for store in stores:
        for key, number in store.get(COUNTS, {}).items():
            digest, _, part = key.partition(".")
            if digest in found:
                found[digest].add(part, int(number))
    return sorted(found.values(), key=lambda total: total.name.write())


def names_in(store: Counters) -> Iterator[tuple[str, Name]]:
    """The series that a store knows, with their digests."""
    for key in store.get(SERIES, {}):
        digest, _, text = key.partition(" ")
        name = Name.read(text)
        if name is not None:
            yield digest, name


def began(stores: Iterable[Counters]) -> int | None:
    """When the first of these began to count, in nanoseconds since the epoch."""
    return min((int(time_ns) for store in stores for time_ns in store.get(BEGAN, {})), default=None)
