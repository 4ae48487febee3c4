"""The user's own prices: a TOML file of `[[price]]` tables, for contracts and local models; the first that fits wins.

[[price]]
provider = "openai"       # optional: any provider; the aliases hold here, too
model = "gpt-5-mini"      # exact, or a glob such as "llama*"
input = 0.25              # USD per million tokens
output = 2.00
cache_read = 0.025        # optional; else as input (so are cache_write, and cache_write_1h as cache_write)
reasoning = 2.00          # optional; else as output
tier = "batch"            # optional: only calls of this service tier
from = 2026-01-01         # optional: the first day, or moment, at which the price holds (UTC)
until = 2027-01-01        # optional: the first at which it holds no longer
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from fnmatch import translate
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from otel_agentbus.errors import ConfigurationError

from . import ids
from .catalog import ALWAYS, Quote, in_utc, nanoseconds
from .rates import CACHE_READ, CACHE_WRITE, EXACT, INPUT, OUTPUT, REASONING, Price, Rates, Unit

_MILLION: Final = 10**6
CACHE_WRITE_1H: Final = "cache_write_1h_tokens"
_UNITS: Final = {
    "input": Unit(INPUT, _MILLION),
    "output": Unit(OUTPUT, _MILLION),
    "cache_read": Unit(CACHE_READ, _MILLION, frozenset((INPUT,))),
    "cache_write": Unit(CACHE_WRITE, _MILLION, frozenset((INPUT,))),
    "cache_write_1h": Unit(CACHE_WRITE_1H, _MILLION, frozenset((INPUT, CACHE_WRITE))),
    "reasoning": Unit(REASONING, _MILLION, frozenset((OUTPUT,))),
}
_DEAREST: Final = 10**6
_DECIMALS: Final = 18


def _figure(value: object) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, (int, Decimal)):
        raise PydanticCustomError("figure", "it must be a number of USD per million tokens, such as 0.25")
    price = Decimal(value)
    if not (price.is_finite() and 0 <= price <= _DEAREST):
        raise PydanticCustomError("figure", "it must be a price from 0 to 1,000,000 USD per million tokens")
    short = price.normalize(EXACT)
    if short != price or int(short.as_tuple().exponent) < -_DECIMALS:
        raise PydanticCustomError("figure", "it must be a price of at most 18 decimal places")
    return short


def _word(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value.strip()) <= ids.LONGEST:
        raise PydanticCustomError("word", "it must be a text of 1 to 256 characters")
    return value.strip()


def _moment(value: object) -> datetime:
    if isinstance(value, datetime):
        try:
            return in_utc(value)
        except OverflowError:
            raise PydanticCustomError("moment", "it must be within the years 1 to 9999 in UTC") from None
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    raise PydanticCustomError("moment", "it must be a date without quotes, such as 2026-01-01")


Figure = Annotated[Decimal, BeforeValidator(_figure)]
Word = Annotated[str, BeforeValidator(_word)]
Moment = Annotated[datetime, BeforeValidator(_moment)]


class Override(BaseModel):
    """One `[[price]]` table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    model: Word
    provider: Word | None = None
    tier: Word | None = None
    input: Figure
    output: Figure
    cache_read: Figure | None = None
    cache_write: Figure | None = None
    cache_write_1h: Figure | None = None
    reasoning: Figure | None = None
    since: Moment | None = Field(default=None, alias="from")
    until: Moment | None = None

    @property
    def span(self) -> tuple[int, int]:
        """The nanoseconds from which and until which the price holds."""
        first, last = ALWAYS
        return (
            first if self.since is None else nanoseconds(self.since),
            last if self.until is None else nanoseconds(self.until),
        )

    def rates(self) -> Rates:
        """The prices that are said; what is not said costs as the count that contains it."""
        said = {name: getattr(self, name) for name in _UNITS}
        prices: dict[Unit, Price] = {_UNITS[name]: figure for name, figure in said.items() if figure is not None}
        return Rates(prices)


class Line:
    """One override, ready to be asked."""

    __slots__ = ("_model", "_provider", "_tier", "number", "price", "rates", "since", "until")

    def __init__(self, number: int, price: Override) -> None:
        self.number = number
        self.price = price
        self.rates = price.rates()
        self.since, self.until = price.span
        self._provider = None if price.provider is None else ids.listed(price.provider)
        self._tier = None if price.tier is None else price.tier.lower()
        self._model = re.compile(translate(price.model.lower()))

    def fits(self, provider: str, models: tuple[str, ...], tier: str) -> bool:
        """Whether this is a price for one of these models, whenever it holds."""
        if self._provider is not None and self._provider != ids.listed(provider):
            return False
        if self._tier is not None and self._tier != tier.lower():
            return False
        return any(self._model.match(model.lower()) for model in models)


class Overrides:
    """A price file. Reading it raises `ConfigurationError`: a sentence for each mistake."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = [Line(number, price) for number, price in enumerate(_read(path), 1)]

    def quote(self, provider: str, models: tuple[str, ...], at_ns: int, tier: str) -> tuple[Line | None, Quote]:
        """The first price in the file that fits and holds, and the time in which this answer stays the same."""
        since, until = ALWAYS
        for line in self.lines:
            if not line.fits(provider, models, tier):
                continue
            if line.since <= at_ns < line.until:
                return line, Quote(line.rates, max(since, line.since), min(until, line.until))
            if at_ns < line.since:
                until = min(until, line.since)
            else:
                since = max(since, line.until)
        return None, Quote(None, since, until)


def _read(path: Path) -> Iterator[Override]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"), parse_float=Decimal)
    except OSError as error:
        raise ConfigurationError(f"The price file {path} cannot be read: {error.strerror}") from None
    except (ValueError, ArithmeticError, RecursionError) as error:  # no UTF-8, no TOML, or a number beyond all numbers
        raise ConfigurationError(f"The price file {path} is not TOML: {error}") from None
    tables = content.pop("price", [])
    if content or not isinstance(tables, list):
        found = next(iter(content), "price")
        raise ConfigurationError(f"The price file {path} has {found!r}: write nothing but [[price]] tables") from None
    complaints: list[str] = []
    for number, table in enumerate(tables, 1):
        try:
            yield _checked(table)
        except ValidationError as error:
            where = f"The price file {path}, [[price]] {number}"
            complaints += [f"{where}: {_complaint(detail)}" for detail in error.errors(include_url=False)]
    if complaints:
        raise ConfigurationError("\n".join(complaints))


def _checked(table: Any) -> Override:
    price = Override.model_validate(table)
    first, last = price.span
    if first >= last:
        raise ValidationError.from_exception_data(
            "Override",
            [
                {
                    "type": PydanticCustomError("span", "it must be later than from"),
                    "loc": ("until",),
                    "input": price.until,
                }
            ],
        )
    return price


def _complaint(detail: ErrorDetails) -> str:
    key = str(detail["loc"][0]) if detail["loc"] else "the table"
    match detail["type"]:
        case "missing":
            cost = "; write 0 if it costs nothing" if key in _UNITS else ""
            return f"{key} is missing{cost}"
        case "extra_forbidden":
            return f"there is no key {key!r}; the keys are {', '.join(_KEYS)}"
        case "model_type":
            return "write it as a table: [[price]]"
        case _:
            return f"{key} is {_shown(detail['input'])}: {detail['msg']}"


def _shown(value: object) -> str:
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else text[:80] + "…"


_KEYS: Final = tuple(field.alias or name for name, field in Override.model_fields.items())

__all__ = ["CACHE_WRITE_1H", "Line", "Override", "Overrides"]
