"""How a price comes about, line by line, for the command line and for whoever doubts a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING

from .catalog import ALWAYS, EPOCH
from .rates import EXACT, Count, Price, Term

if TYPE_CHECKING:
    from .book import Charge, Tariff


@dataclass(frozen=True, slots=True)
class UnitPrice:
    """The price of so many of a unit."""

    unit: str
    per: int
    price: Price


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a call costs and why, or why that is not known."""

    status: str
    usd: float | None
    #: The exact amount, of which `usd` is the nearest float.
    exact: Decimal | None
    source: str | None
    provider: str | None
    model: str | None
    #: From when and until when these prices hold; None is: as far as the source knows, always.
    since: datetime | None
    until: datetime | None
    prices: tuple[UnitPrice, ...]
    terms: tuple[Term, ...]


def explained(tariff: Tariff, charge: Charge, counts: Mapping[str, Count]) -> Explanation:
    """The explanation of this charge for these counts."""
    rates = tariff.rates
    terms = rates.terms(counts) if rates is not None and charge.usd is not None else None
    return Explanation(
        status=charge.status,
        usd=charge.usd,
        exact=None if terms is None else decimal(sum((term.usd for term in terms), Fraction(0))),
        source=tariff.source,
        provider=tariff.provider,
        model=tariff.model,
        since=None if tariff.since == ALWAYS[0] else _moment(tariff.since),
        until=None if tariff.until == ALWAYS[1] else _moment(tariff.until),
        prices=() if rates is None else tuple(UnitPrice(u.key, u.per, price) for u, price in rates.prices.items()),
        terms=tuple(term for term in terms or () if term.quantity),
    )


def _moment(at_ns: int) -> datetime:
    return EPOCH + timedelta(microseconds=at_ns // 1000)


def decimal(amount: Fraction) -> Decimal:
    """An amount as people write it."""
    return EXACT.divide(Decimal(amount.numerator), Decimal(amount.denominator))


def plain(amount: Decimal | Fraction) -> str:
    """The digits of an amount, without an exponent and without zeros at the end."""
    exact = decimal(amount) if isinstance(amount, Fraction) else amount
    return f"{exact.normalize(EXACT):f}"


__all__ = ["Explanation", "UnitPrice", "decimal", "explained", "plain"]
