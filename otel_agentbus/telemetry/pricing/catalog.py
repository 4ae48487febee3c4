"""The public list of prices (genai-prices), asked for one model at one time in one service tier.

The list is optional and heavy: it is imported in `Catalog.load`, which the background calls. Its own search caches grow
with every name it is asked for; names come from outside, so this asks its providers and models directly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from itertools import combinations
from typing import TYPE_CHECKING, Final, NamedTuple

from . import ids
from .rates import Price, Rates, Stepped, Unit

if TYPE_CHECKING:
    from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, Provider
    from genai_prices.units import UnitDef, UnitRegistry

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
#: The beginning and the end of time, in nanoseconds: what holds always.
ALWAYS: Final = (-(1 << 80), 1 << 80)
#: How many quotes are kept, each under the model that it is for.
_ROOM: Final = 4096
_LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC)
#: Models whose shortest billed recording has this many seconds; the list has the rule in its code, not in its data.
_AT_LEAST: Final = frozenset((("groq", "whisper-large-v3"), ("groq", "whisper-large-v3-turbo")))
_GROQ_SECONDS: Final = 10
_STANDARD: Final = frozenset(("", "auto", "default", "standard", "standard_only", "on_demand"))


class Found(NamedTuple):
    """A model of the list, under the provider that was asked for."""

    provider: Provider
    model: ModelInfo

    @property
    def fallback(self) -> bool:
        """Whether the model is another provider's, which this one offers at the same price."""
        return not any(model is self.model for model in self.provider.models)


class Quote(NamedTuple):
    """Rates, and the nanoseconds from which and until which they hold; None where the list has no price."""

    rates: Rates | None
    since: int
    until: int


class Catalog:
    """The list as it is installed, or as the application has updated it before it was loaded here."""

    def __init__(self, providers: list[Provider], registry: UnitRegistry, version: str) -> None:
        self.version = version
        self._all = providers
        self._quotes: dict[tuple[str, int, int, tuple[tuple[str, str], ...]], Quote] = {}
        self._providers = {provider.id: provider for provider in providers}
        self._units = {unit.price_key: _unit(unit, registry) for unit in registry.units.values()}

    @classmethod
    def load(cls) -> Catalog:
        """Import the list and read it: about half a second. Raises ImportError where it is not installed."""
        import genai_prices
        from genai_prices.data_snapshot import get_snapshot
        from genai_prices.data_units import unit_data
        from genai_prices.units import UnitRegistry

        return cls(get_snapshot().providers, UnitRegistry(unit_data), f"genai-prices {genai_prices.__version__}")

    def provider(self, name: str, model: str) -> tuple[Provider | None, str]:
        """The provider of this name, and the model's name without what only leads to the provider.

        Without a provider, a name like `openai/gpt-5` says it, and else the list's own rules for bare model names.
        """
        prefix, slash, rest = model.partition("/")
        if ids.canonical(name) == ids.LITELLM or not name:
            provider = self._named(prefix) if slash else None
            if provider is not None or slash or name:
                return provider, rest
            return self._by_model(model), model
        return self._named(name), model

    def _named(self, name: str) -> Provider | None:
        return self._providers.get(ids.canonical(name)) or self._providers.get(ids.listed(name))

    def _by_model(self, model: str) -> Provider | None:
        lowered = model.lower()
        matching = (p for p in self._all if p.model_match is not None and p.model_match.is_match(lowered))
        return next(matching, None)

    def find(self, provider: Provider, model: str) -> Found | None:
        """The model of this name, if this provider has it."""
        for spelling in ids.model_spellings(model, provider.id):
            found = provider.find_model(spelling, all_providers=self._all)
            if found is not None:
                return Found(provider, found)
        return None

    def quote(self, found: Found, at_ns: int, tier: str) -> Quote:
        """The model's rates at this time, in this service tier; a tier that the list does not know is the standard."""
        model, context = found.model, {} if found.fallback else context_of(tier)
        at = _moment(at_ns)
        since, until = _span(model, at, context)
        key = (found.provider.id, id(model), since, tuple(context.items()))
        quote = self._quotes.get(key)
        if quote is None:
            if len(self._quotes) >= _ROOM:
                self._quotes.clear()
            quote = self._quotes[key] = self._quote(found, at, context, since, until)
        return quote

    def _quote(self, found: Found, at: datetime, context: Mapping[str, str], since: int, until: int) -> Quote:
        model = found.model
        prices = self._prices(model.get_prices(at, context or None))
        if prices or model.id.endswith(":free"):
            least = _GROQ_SECONDS if (found.provider.id, model.id) in _AT_LEAST else 0
            return Quote(Rates(prices, least), since, until)
        return Quote(None, since, until)

    def _prices(self, price: ModelPrice) -> dict[Unit, Price]:
        return {
            self._units[key]: _figure(value)
            for key, value in price.__dict__.items()
            if value is not None and key in self._units
        }


def context_of(tier: str) -> Mapping[str, str]:
    """The service tier as the list's conditions name it."""
    said = tier.strip().lower().removeprefix("service_tier_")
    if said in _STANDARD:
        return {}
    if said in ("batch", "batches"):
        return {"processing": "batch"}
    return {"service_tier": said, "speed": said}


def _figure(value: object) -> Price:
    base = getattr(value, "base", None)
    if base is None:
        return value  # type: ignore[return-value]  # the list's prices are Decimal or tiered
    steps = tuple((tier.start, tier.price) for tier in value.tiers)  # type: ignore[attr-defined]
    return Stepped(base, steps)


def _unit(unit: UnitDef, registry: UnitRegistry) -> Unit:
    within = registry.ancestor_usage_keys(unit.usage_key)
    pairs = combinations((registry.units[key] for key in sorted(within)), 2)
    overlaps = tuple((a.usage_key, b.usage_key) for a, b in pairs if _is_overlap(unit, a, b))
    return Unit(unit.usage_key, unit.per, within, overlaps)


def _is_overlap(unit: UnitDef, one: UnitDef, other: UnitDef) -> bool:
    a, b = one.dimensions.items(), other.dimensions.items()
    return not (a <= b or b <= a) and dict(unit.dimensions) == {**one.dimensions, **other.dimensions}


# -- time -------------------------------------------------------------------------------------------------------------
def _moment(at_ns: int) -> datetime:
    return min(EPOCH + timedelta(microseconds=max(at_ns // 1000, 0)), _LATEST) if at_ns < 1 << 62 else _LATEST


def in_utc(moment: datetime) -> datetime:
    """The moment in UTC, which is meant where no zone is said. OverflowError: there it has no year from 1 to 9999."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def nanoseconds(moment: datetime) -> int:
    """The moment in nanoseconds since 1970, exactly."""
    return (moment - EPOCH) // timedelta(microseconds=1) * 1000


def _span(model: ModelInfo, at: datetime, context: Mapping[str, str]) -> tuple[int, int]:
    """From the last time before, to the first time after, at which any of the model's conditions may change."""
    since, until = ALWAYS
    for change in _changes(model, at, context):
        if change <= at:
            since = max(since, nanoseconds(change))
        else:
            until = min(until, nanoseconds(change))
    return since, until


def _changes(model: ModelInfo, at: datetime, context: Mapping[str, str]) -> Iterator[datetime]:
    conditional: list[ConditionalPrice] = model.prices if isinstance(model.prices, list) else []
    constraints = [price.constraint for price in conditional]
    if context:
        variants = model.price_variants or ()
        constraints += [variant.constraint for variant in variants if variant.when.items() <= context.items()]
    for constraint in constraints:
        if constraint is None:
            continue
        start = getattr(constraint, "start_date", None)
        if isinstance(start, date):
            yield datetime(start.year, start.month, start.day, tzinfo=UTC)
        else:
            yield from _daily(constraint, at)


def _daily(constraint: object, at: datetime) -> Iterator[datetime]:
    """The times of day around this moment; of a condition of an unknown kind, the moment itself."""
    for name in ("start_time", "end_time"):
        of_day = getattr(constraint, name, None)
        if not isinstance(of_day, time):
            yield from (at, at + timedelta(microseconds=1))
            return
        for days in (-1, 0, 1):
            day = at.date() + timedelta(days=days)
            yield datetime.combine(day, of_day if of_day.tzinfo else of_day.replace(tzinfo=UTC)).astimezone(UTC)


__all__ = ["ALWAYS", "EPOCH", "Catalog", "Found", "Quote", "context_of", "in_utc", "nanoseconds"]
