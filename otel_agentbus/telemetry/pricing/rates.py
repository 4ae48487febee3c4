"""The derived table of one price: whole-number weights of each count, so that an amount is exact and quick to find.

Counts contain one another: cached tokens are part of the input, cached audio is part of both. A weight is what a count
adds beyond the counts that contain it, in units of `1 / denominator` USD; the one rounding is the last division.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from math import lcm
from operator import mul
from typing import Final, NamedTuple

#: The counts that every call may have, in the order of the weights.
INPUT: Final = "input_tokens"
OUTPUT: Final = "output_tokens"
CACHE_READ: Final = "cache_read_tokens"
CACHE_WRITE: Final = "cache_write_tokens"
REASONING: Final = "output_reasoning_tokens"
PLAIN: Final = (INPUT, OUTPUT, CACHE_READ, CACHE_WRITE, REASONING)
#: What is billed once for each call, whatever it counts.
REQUESTS: Final = "requests"

#: What an application makes of decimal numbers, and traps in them, is not for its prices.
EXACT: Final = Context(
    prec=60, rounding=ROUND_HALF_EVEN, Emin=-999_999, Emax=999_999, capitals=1, clamp=0, flags=[], traps=[]
)

#: A count: whole, or a fraction of seconds.
Count = int | Fraction


class Unit(NamedTuple):
    """What a price is for: `per` of a count; which counts contain it, and which pairs of counts overlap in it."""

    key: str
    per: int
    within: frozenset[str] = frozenset()
    overlap_of: tuple[tuple[str, str], ...] = ()


class Stepped(NamedTuple):
    """A price that changes for the whole call where its input is larger than a threshold."""

    base: Decimal
    steps: tuple[tuple[int, Decimal], ...]

    def at(self, tokens: Count) -> Decimal:
        """The price of a call with this input."""
        price = self.base
        for start, above in self.steps:
            if tokens > start:
                price = above
        return price


Price = Decimal | Stepped


class Term(NamedTuple):
    """One line of the arithmetic: so many of a unit, without what a more special one counts, at this price."""

    key: str
    quantity: Count
    price: Decimal
    per: int

    @property
    def usd(self) -> Fraction:
        """The exact amount of this line."""
        return Fraction(self.price) * self.quantity / self.per


class Rates:
    """The prices of one model, for one span of time and one service tier."""

    __slots__ = (
        "_denominator",
        "_fixed",
        "_full",
        "_inner",
        "_plain",
        "_starts",
        "_units",
        "billed_without",
        "bills_tokens",
        "further",
        "least_seconds",
        "needs_input",
        "needs_output",
        "prices",
    )

    def __init__(self, prices: Mapping[Unit, Price], least_seconds: int = 0) -> None:
        self.least_seconds = least_seconds
        self.prices = dict(prices)
        self._units = sorted((unit for unit in prices if unit.key != REQUESTS), key=lambda unit: -len(unit.within))
        keys = {unit.key for unit in self._units}
        #: The priced counts that only `LlmResponse.usage` can have.
        self.further = frozenset(keys.difference(PLAIN))
        self.bills_tokens = not keys.isdisjoint(PLAIN)
        #: Whether a call costs something, or is known to cost nothing, even where nothing is counted that is billed.
        self.billed_without = len(keys) < len(prices) or not prices
        self.needs_input = self._costs(INPUT)
        self.needs_output = self._costs(OUTPUT)
        self._compile()

    def _costs(self, key: str) -> bool:
        for unit, price in self.prices.items():
            if unit.key == key:
                return any(figure > 0 for figure in _figures(price))
        return False

    def _compile(self) -> None:
        self._starts = sorted(
            {start for price in self.prices.values() if isinstance(price, Stepped) for start, _ in price.steps}
        )
        inputs = (0, *(start + 1 for start in self._starts))
        fixed = sum((self._rate(unit, 0) for unit in self.prices if unit.key == REQUESTS), Fraction(0))
        rates = [[self._rate(unit, tokens) for unit in self._units] for tokens in inputs]
        self._denominator = lcm(fixed.denominator, *(rate.denominator for band in rates for rate in band))
        self._fixed = int(fixed * self._denominator)
        self._full = [tuple(int(rate * self._denominator) for rate in band) for band in rates]
        self._plain = [self._weights(band) for band in self._full]
        self._inner = [
            tuple(place for place, other in enumerate(self._units) if unit.key in other.within) for unit in self._units
        ]

    def _rate(self, unit: Unit, tokens: Count) -> Fraction:
        return Fraction(_at(self.prices[unit], tokens)) / unit.per

    def _weights(self, rates: tuple[int, ...]) -> tuple[int, ...]:
        """What one more of each plain count adds: its price, without what the counts that contain it add already."""
        found: dict[str, int] = {}
        for unit, rate in zip(reversed(self._units), reversed(rates), strict=True):  # from the general to the special
            found[unit.key] = rate - sum(weight for key, weight in found.items() if key in unit.within)
        return tuple(found.get(key, 0) for key in PLAIN)

    def plain(self, tokens: int, output: int, cache_read: int, cache_write: int, reasoning: int) -> float:
        """The amount of a call that has the plain counts only; they must be totals and parts that fit into them."""
        starts = self._starts
        band = self._plain[bisect_left(starts, tokens)] if starts else self._plain[0]
        of_input, of_output, of_read, of_write, of_reasoning = band
        return (
            self._fixed
            + tokens * of_input
            + output * of_output
            + cache_read * of_read
            + cache_write * of_write
            + reasoning * of_reasoning
        ) / self._denominator

    def amount(self, counts: Mapping[str, Count]) -> float | None:
        """The amount of a call with any counts; None where they cannot be."""
        rests = self._rests(counts)
        if rests is None:
            return None
        band = self._full[bisect_left(self._starts, counts.get(INPUT, 0))]
        return float(sum(map(mul, rests, band), start=self._fixed) / self._denominator)

    def terms(self, counts: Mapping[str, Count]) -> list[Term] | None:
        """The arithmetic of any counts, line by line; None where they cannot be."""
        rests = self._rests(counts)
        if rests is None:
            return None
        tokens = counts.get(INPUT, 0)
        quantities = dict(zip((unit.key for unit in self._units), rests, strict=True)) | {REQUESTS: 1}
        return [
            Term(unit.key, quantities[unit.key], _at(price, tokens), unit.per) for unit, price in self.prices.items()
        ]

    def _rests(self, counts: Mapping[str, Count]) -> list[Count] | None:
        """What is left of each count without those that it contains. A part that exceeds its whole, or the overlap of
        two counts that is not told: such counts cannot be.
        """
        if self.least_seconds:
            counts = self._of_seconds(counts)
        rests: list[Count] = []
        for unit, inner in zip(self._units, self._inner, strict=True):  # from the special to the general
            rest = counts.get(unit.key, 0)
            for place in inner:
                rest -= rests[place]
            if rest < 0 or (unit.overlap_of and self._is_untold(unit, counts)):
                return None
            rests.append(rest)
        return rests

    def _of_seconds(self, counts: Mapping[str, Count]) -> dict[str, Count]:
        seconds = counts.get("audio_seconds") or counts.get("input_audio_seconds") or 0
        billed = max(seconds, self.least_seconds) if seconds else 0
        return {**counts, "audio_seconds": billed, "input_audio_seconds": billed}

    @staticmethod
    def _is_untold(unit: Unit, counts: Mapping[str, Count]) -> bool:
        return unit.key not in counts and any(counts.get(a) and counts.get(b) for a, b in unit.overlap_of)


def _at(price: Price, tokens: Count) -> Decimal:
    return price.at(tokens) if isinstance(price, Stepped) else price


def _figures(price: Price) -> Iterator[Decimal]:
    if isinstance(price, Stepped):
        yield price.base
        yield from (figure for _, figure in price.steps)
    else:
        yield price


__all__ = [
    "CACHE_READ",
    "CACHE_WRITE",
    "EXACT",
    "INPUT",
    "OUTPUT",
    "PLAIN",
    "REASONING",
    "REQUESTS",
    "Count",
    "Price",
    "Rates",
    "Stepped",
    "Term",
    "Unit",
]
