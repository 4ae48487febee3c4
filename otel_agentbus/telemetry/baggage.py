"""Baggage on an allow list: what carriers take of it to other processes, and what they bring into this one.

Baggage in a context leaves the process with every request of an instrumented client, also to those who serve models.
So nothing is carried that is not named, and what a carrier has brought is out of sight inside model calls.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from urllib.parse import quote_plus, unquote_plus

from opentelemetry import baggage
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context, create_key

_log = logging.getLogger("otel_agentbus.baggage")

HEADER = "baggage"
#: W3C's bounds: how long a header and one of its entries may be, in bytes, and how many of these it may have.
HEADER_LIMIT, ENTRY_LIMIT, ENTRIES = 8192, 4096, 180

_W3C = W3CBaggagePropagator()
#: Under which a context has its baggage.
_BAGGAGE = next(iter(baggage.set_baggage("name", "value", Context())))
#: Under which a context has the entries that a carrier has brought, by name.
_BROUGHT = create_key("agentbus.baggage")
#: Under which a context has what tells it from others: contexts that are made from it have the same.
_MARK = create_key("agentbus.carrier")


class AllowedBaggage:
    """The entries that may be carried, by name as W3C has them: upper and lower case differ."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self.names = frozenset(names)

    def __bool__(self) -> bool:
        return bool(self.names)

    def write(self, carrier: MutableMapping[str, str], context: Context) -> None:
        """Write what may leave into the carrier's `baggage`, beside what somebody else has written there."""
        here = baggage.get_all(context)
        found = {name: _sendable(name, here[name]) for name in here if name in self.names}
        allowed = dict(_bounded({name: text for name, text in found.items() if text is not None}))
        if not allowed:
            return
        written: dict[str, str] = {}
        _W3C.inject(written, _holding(allowed))
        others = [entry for entry in str(carrier.get(HEADER) or "").split(",") if entry.strip()]
        kept = [entry for entry in others if _name(entry) not in self.names]
        header = ",".join([*kept, *written.values()])
        if written and len(header) <= HEADER_LIMIT and len(kept) + len(allowed) <= ENTRIES:
            carrier[HEADER] = header

    def read(self, header: str | None, context: Context) -> Context:
        """The context with what a carrier's `baggage` says of the allowed entries; the rest is not even read."""
        if not header or not self.names or len(header) > HEADER_LIMIT:
            return context
        entries = [entry for entry in header.split(",") if _name(entry) in self.names and len(entry) <= ENTRY_LIMIT]
        if not entries:
            return context
        told = baggage.get_all(_W3C.extract({HEADER: ",".join(entries[:ENTRIES])}, Context()))
        here = baggage.get_all(context)
        brought = {name: told[name] for name in told if name in self.names and not _is(here.get(name), told[name])}
        if not brought:
            return context
        context = _holding(brought, context)
        return Context({**context, _BROUGHT: {**_brought(context), **brought}})


def withheld(context: Context) -> Context:
    """The context without what carriers have brought; what the program has put there itself is its own."""
    brought = _brought(context)
    if not brought:
        return context
    here = baggage.get_all(context)
    left = {name: here[name] for name in here if name not in brought or here[name] is not brought[name]}
    return Context({**_holding(left, baggage.clear(context)), _BROUGHT: {}})


def marked(context: Context) -> Context:
    """The context of one carrier, to be known again by `is_within`."""
    return Context({**context, _MARK: object()})


def is_within(context: Context, carrier: Context) -> bool:
    """Whether it was made from this carrier's context."""
    return context.get(_MARK) is carrier[_MARK]


def outside(context: Context, before: Context, *keys: str) -> Context:
    """A context that was made from a carrier's: what that brought, and these keys, as they were before."""
    entries = {**baggage.get_all(withheld(context)), **_brought(before)}
    reset = {_BAGGAGE, _BROUGHT, _MARK, *keys}
    found = {key: value for key, value in context.items() if key not in reset}
    found |= {key: before[key] for key in reset if key in before}
    if not _same(entries, baggage.get_all(before)):
        found[_BAGGAGE] = entries
    return before if _same(found, before) else Context(found)


def _same(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    return one.keys() == other.keys() and all(one[key] is other[key] for key in one)


def _brought(context: Context) -> Mapping[str, object]:
    found = context.get(_BROUGHT)
    return found if isinstance(found, dict) else {}


def _holding(entries: Mapping[str, object], context: Context | None = None) -> Context:
    context = Context() if context is None else context
    for name, value in entries.items():
        context = baggage.set_baggage(name, value, context)
    return context


def _is(here: object, told: object) -> bool:
    return type(here) is str and here == told  # what a program has put there may be anything


def _sendable(name: str, value: object) -> str | None:
    """The value as text; None for what no header can take: one bad value must not cost the others."""
    try:
        text = str(value)
        return text if len(quote_plus(name)) + 1 + len(quote_plus(text)) <= ENTRY_LIMIT else None
    except Exception:  # noqa: BLE001 - a value of the program's may be anything
        _log.debug("The baggage entry %s cannot be sent", name, exc_info=True)
        return None


def _bounded(entries: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """As many of them as a header may have: the propagator would complain of the others in the program's log."""
    room = HEADER_LIMIT
    for number, (name, text) in enumerate(entries.items()):
        room -= len(quote_plus(name)) + len(quote_plus(text)) + (1 if number == 0 else 2)
        if room < 0 or number >= ENTRIES:
            return
        yield name, text


def _name(entry: str) -> str:
    return unquote_plus(entry.partition("=")[0].strip())


__all__ = ["AllowedBaggage", "is_within", "marked", "outside", "withheld"]
