"""What a model call costs: the user's own prices, then the public list, each answer kept for as long as it holds."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from otel_agentbus.events import LlmRequest, LlmResponse
from otel_agentbus.telemetry.usage import Usage, usage_of

from . import loading
from .catalog import ALWAYS, Catalog, Found, nanoseconds
from .counts import UNIT_OF, further, together
from .explanation import Explanation, explained
from .ids import LONGEST
from .overrides import Overrides
from .rates import Count, Rates

_log = logging.getLogger("otel_agentbus")

#: How many models may be known at once, and how many names that no price is known of; the oldest goes first.
ROOM: Final = 4096
#: How many spans of time are kept for one model: a replay of old events meets many, a day of an off-peak price three.
SPANS: Final = 8
#: No call takes longer; a longer duration says nothing about when the call began.
_LONGEST_CALL: Final = 30 * 86_400.0


class Charge(NamedTuple):
    """What a call costs in USD where that is known, and how it is known or why not."""

    usd: float | None
    status: str


class Tariff(NamedTuple):
    """What is known of the prices of one kind of call, in a span of time."""

    status: str
    rates: Rates | None
    since: int
    until: int
    #: Where the price is from, for people.
    source: str | None = None
    provider: str | None = None
    model: str | None = None


_Key = tuple[object, object, object, object]

_NO_USAGE: Final = Charge(None, "no_usage")
_INVALID: Final = Charge(None, "invalid_usage")
_UNKNOWN: Final = Tariff("unknown_model", None, *ALWAYS)
_NO_SOURCE: Final = Tariff("no_price_source", None, *ALWAYS)


class PriceBook:
    """The prices that are known here. Reads the user's file at once (`ConfigurationError`), the public list on `load`.

    A price is that of the call's time, which is its event's without its duration. A provider's model is the one that
    answered, where a price of it is known, else the one that was asked. Without a provider the model's name alone says
    it; a provider that is not known is never guessed from it.
    """

    def __init__(self, overrides: str | Path | None = None, *, catalog: bool = True) -> None:
        self._overrides = None if overrides is None else Overrides(Path(overrides))
        self._catalog: Catalog | None = None
        self._wanted = catalog
        self._loading = loading.Loading(self._load) if catalog else None
        self._lock = threading.Lock()
        self._priced: dict[_Key, tuple[Tariff, ...]] = {}
        self._unpriced: dict[_Key, tuple[Tariff, ...]] = {}

    # -- the public list ------------------------------------------------------------------------------------------
    def load(self) -> None:
        """Import the public list, once; blocks for about half a second. Without it there are the user's prices."""
        if self._loading is not None:
            self._loading.now()

    def load_in_background(self) -> None:
        """The same in a daemon thread."""
        if self._loading is not None:
            self._loading.in_background()

    def after_fork(self) -> None:
        """New locks in the child of a fork, and a new thread if the parent's had not loaded the list."""
        self._lock = threading.Lock()
        if self._loading is not None:
            self._loading.after_fork()

    @property
    def ready(self) -> bool:
        """Whether the list is loaded, or there is nothing to load."""
        return self._loading is None or self._loading.done

    def wait(self, timeout: float) -> bool:
        """Wait until `ready`, at most this many seconds; whether it is."""
        return self._loading is None or self._loading.wait(timeout)

    @property
    def version(self) -> str | None:
        """The list and its version, where it is loaded."""
        return None if self._catalog is None else self._catalog.version

    def _load(self) -> None:
        try:
            self._catalog = Catalog.load()
        except ImportError as error:
            if error.name is None or error.name.partition(".")[0] != "genai_prices":
                _log.warning("The list of prices cannot be imported: %s", error)
        except Exception:  # noqa: BLE001 - whatever is wrong with the list, there are still the user's own prices
            _log.warning("The list of prices cannot be read; calls are priced without it", exc_info=True)

    # -- prices ---------------------------------------------------------------------------------------------------
    def charge(self, event: LlmResponse, usage: Usage) -> Charge:
        """What this call costs. Never raises, never loads the list: until it is there, its prices are not known."""
        if usage.invalid:
            return _INVALID
        try:
            tariff = self._tariff(event)
            if tariff.rates is None:
                return _unpriced(event, usage, tariff)
            if event.usage and tariff.rates.further:
                return _detailed(event.usage, usage, tariff)
            return _plain(usage, tariff.rates, tariff.status)
        except Exception:  # noqa: BLE001 - an event may hold anything, and telemetry goes on without its price
            return Charge(None, "unknown_model")

    def is_warm(self, event: LlmResponse) -> bool:
        """Whether `charge` need only look at its table."""
        key = (event.model_provider, event.model, event.response_model, event.service_tier)
        try:
            return key in self._priced or key in self._unpriced
        except Exception:  # noqa: BLE001 - what cannot be a key of the table is never in it
            return False

    def warm(self, event: LlmRequest | LlmResponse) -> None:
        """Look the call's price up now, so that `charge` finds it in its table."""
        try:
            if isinstance(event, LlmResponse):
                self._tariff(event)
            else:
                tier = (event.parameters or {}).get("service_tier")
                key = (event.model_provider, event.model, None, tier)
                self._held(key, event.time_ns if isinstance(event.time_ns, int) else time.time_ns())
        except Exception:  # noqa: BLE001 - an event may hold anything
            return

    def _tariff(self, event: LlmResponse) -> Tariff:
        key = (event.model_provider, event.model, event.response_model, event.service_tier)
        tariffs = self._priced.get(key)
        if tariffs is not None and tariffs[0].rates is not None:
            first = tariffs[0]
            if first.since == ALWAYS[0] and first.until == ALWAYS[1]:
                return first
        return self._held(key, _asked_at(event))

    def _held(self, key: _Key, at_ns: int) -> Tariff:
        for tariff in self._priced.get(key) or self._unpriced.get(key) or ():
            if tariff.since <= at_ns < tariff.until:
                return tariff
        ready = self.ready  # before the lookup: what is not found while the list is loading may be found later
        found = self._looked_up(*key, at_ns=at_ns)
        if ready and all(_text(part) is not None for part in key):
            self._keep(key, found)
        return found

    def _keep(self, key: _Key, found: Tariff) -> None:
        with self._lock:
            table, other = (self._unpriced, self._priced) if found.rates is None else (self._priced, self._unpriced)
            before = other.pop(key, None) or table.pop(key, ())
            while len(table) >= ROOM:
                del table[next(iter(table))]
            table[key] = (found, *before[: SPANS - 1])

    def _looked_up(
        self, provider: object, model: object, response_model: object, tier: object, *, at_ns: int
    ) -> Tariff:
        """The prices that hold for such a call at this time, looked up anew."""
        name = _text(provider)
        models = tuple(dict.fromkeys(text for text in (_text(response_model), _text(model)) if text))
        said = _text(tier) or ""
        if name is None:
            return _UNKNOWN._replace(status="unknown_provider")
        since, until = ALWAYS
        if self._overrides is not None:
            line, quote = self._overrides.quote(name, models, at_ns, said)
            if line is not None:
                source = f"{self._overrides.path}, [[price]] {line.number}"
                return Tariff("override", *quote, source, line.price.provider or "any", line.price.model)
            since, until = quote.since, quote.until
        tariff = self._listed(name, models, at_ns, said)
        return tariff._replace(since=max(since, tariff.since), until=min(until, tariff.until))

    def _listed(self, name: str, models: tuple[str, ...], at_ns: int, tier: str) -> Tariff:
        catalog = self._catalog
        if catalog is None:
            return _NO_SOURCE if self._overrides is None or not self.ready else _UNKNOWN
        if not models:
            return _UNKNOWN
        found, known = _find(catalog, name, models)
        if found is None:
            return _UNKNOWN if known else _UNKNOWN._replace(status="unknown_provider")
        quote = catalog.quote(found, at_ns, tier)
        status = "unknown_model" if quote.rates is None else "priced"
        return Tariff(status, *quote, catalog.version, found.provider.id, found.model.id)

    # -- for people -----------------------------------------------------------------------------------------------
    def explain(
        self,
        model: str,
        provider: str | None = None,
        *,
        input: int | None = None,
        output: int | None = None,
        cache_read: int | None = None,
        cache_write: int | None = None,
        reasoning: int | None = None,
        further_counts: Mapping[str, int] | None = None,
        at: datetime | None = None,
        tier: str | None = None,
    ) -> Explanation:
        """How the price of such a call comes about. Counts are as in an event: totals that include their parts, and
        further ones in any provider's spelling; without any, the unit prices are told. `at` is now, if it is not given.
        """
        event = LlmResponse(
            model_provider=provider or "",
            model=model,
            duration=0.0,
            success=True,
            time_ns=time.time_ns() if at is None else nanoseconds(at),
            input_tokens=input,
            output_tokens=output,
            cache_read_input_tokens=cache_read,
            cache_write_input_tokens=cache_write,
            reasoning_output_tokens=reasoning,
            usage=None if further_counts is None else dict(further_counts),
            service_tier=tier,
        )
        usage, others = usage_of(event), further(further_counts or {}) or {}
        tariff = self._tariff(event)
        counted = bool(others) or any(value is not None for value in usage[:-1])
        charge = self.charge(event, usage) if counted else Charge(None, tariff.status)
        return explained(tariff, charge, together(usage, others))


def _find(catalog: Catalog, name: str, models: tuple[str, ...]) -> tuple[Found | None, bool]:
    """The first of these models that the list has under this provider, and whether it has the provider at all."""
    known = False
    for model in models:
        provider, rest = catalog.provider(name, model)
        known = known or provider is not None
        found = None if provider is None else catalog.find(provider, rest)
        if found is not None:
            return found, True
    return None, known


def _text(value: object) -> str | None:
    """What can be looked up: nothing counts as an empty text, what is no text or too long as None."""
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) and len(value) <= LONGEST else None


def _asked_at(event: LlmResponse) -> int:
    """When the call was asked for, in nanoseconds."""
    at, duration = event.time_ns, event.duration
    if at.__class__ is not int or at is None:
        at = time.time_ns()
    if duration.__class__ is float and 0.0 < duration < _LONGEST_CALL:
        at -= int(duration * 1e9)
    return at


# -- arithmetic -------------------------------------------------------------------------------------------------------
def _plain(usage: Usage, rates: Rates, status: str) -> Charge:
    total_in, total_out, cache_read, cache_write, reasoning, _ = usage
    if total_in is None or total_out is None:
        if _lacks(usage, rates):
            return _NO_USAGE
        total_in, total_out = total_in or 0, total_out or 0
    elif not (rates.bills_tokens or rates.billed_without):
        return _NO_USAGE
    cache_read, cache_write, reasoning = cache_read or 0, cache_write or 0, reasoning or 0
    if cache_read + cache_write > total_in or reasoning > total_out:
        return _INVALID
    return Charge(rates.plain(total_in, total_out, cache_read, cache_write, reasoning), status)


def _lacks(usage: Usage, rates: Rates) -> bool:
    """Whether a count is missing that costs something: then the price is not known."""
    if usage.input is None and usage.output is None:
        return True
    return (usage.input is None and rates.needs_input) or (usage.output is None and rates.needs_output)


def _detailed(given: object, usage: Usage, tariff: Tariff) -> Charge:
    rates = tariff.rates
    assert rates is not None  # the caller has seen them
    if not isinstance(given, Mapping):
        return _plain(usage, rates, tariff.status)
    others = further(given) if any(map(_may_count, given.items())) else {}
    if others is None:
        return _INVALID
    if rates.further.isdisjoint(others):
        return _plain(usage, rates, tariff.status)
    return _all(together(usage, others), usage, tariff)


def _may_count(entry: tuple[object, object]) -> bool:
    """Whether this entry of a usage may be one that a price is for, or have one within."""
    key, value = entry
    return key in UNIT_OF or (value.__class__ is not int and isinstance(value, Mapping))


def _all(counts: dict[str, Count], usage: Usage, tariff: Tariff) -> Charge:
    rates = tariff.rates
    assert rates is not None
    if rates.bills_tokens and _lacks(usage, rates):
        return _NO_USAGE
    amount = rates.amount(counts)
    return _INVALID if amount is None else Charge(amount, tariff.status)


def _unpriced(event: LlmResponse, usage: Usage, tariff: Tariff) -> Charge:
    if usage.input is None and usage.output is None and not (event.usage and further(event.usage)):
        return _NO_USAGE
    return Charge(None, tariff.status)


__all__ = ["Charge", "PriceBook", "Tariff"]
