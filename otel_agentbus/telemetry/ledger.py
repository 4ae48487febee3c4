"""The ledger of model calls: each call is entered once, priced once, and whatever tells of it again adds nothing.

A call is known by its call id in its run, by the provider's id of its response, and by its place: a framework's call
that encloses the provider's own is the same call, whichever of the two tells first. `tellings` says when two tellings
are of one call; where one of them knew less, the other one adds what it knows more, and no more than that.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from otel_agentbus.events import AgentEnd, AgentStart, CacheHit, Event, LlmRequest, LlmResponse, ToolCall

from .accounts import NOTHING, Account, known_of, reported
from .recent import Recent
from .sums import Sums
from .tellings import (
    COSTED,
    COVERED,
    FAILED,
    INNER,
    USED,
    Call,
    CallName,
    around_of,
    counts_of,
    id_of,
    is_same,
    is_told_within,
    may_sum,
    name_of,
    rest,
    share,
    total,
)
from .usage import Usage, count

#: How many calls are remembered, the latest half of them for certain; of what is older nothing is recognised any more.
CALLS: Final = 16_384
#: Caches that providers keep: they make a call cheaper, which its usage says, but the call is made and paid.
PROVIDER_CACHES: Final = frozenset(("prompt", "prefix", "context", "kv", "provider"))

_UNKNOWN_SAVING: Final = -1


class Prices(Protocol):
    """Where prices come from (see `pricing.PriceBook`)."""

    def charge(self, event: LlmResponse, usage: Usage) -> tuple[float | None, str]:
        """What the call costs by list, in USD, and how that is known or why not."""

    def warm(self, event: LlmRequest | LlmResponse) -> None:
        """Look up now what the answer to this request will need."""


class Ledger:
    """Enters the events of one process as they come; thread-safe, bounded, and never asks the agent to wait."""

    def __init__(self, prices: Prices | None = None) -> None:
        self._prices = prices
        self.forget()

    def forget(self) -> None:
        """Start from nothing, with a lock of its own: in the child of a fork, where the parent tells of its calls."""
        #: How many events could not be entered.
        self.failed = 0
        self._lock = threading.RLock()
        self._number = 0
        self._calls: Recent[CallName, Call] = Recent(CALLS)
        #: By the hash of a response's id (more than the id must be equal); False for one that was given to several.
        self._responses: Recent[int, Call | bool] = Recent(CALLS)
        self._sums = Sums()

    def enter(self, event: Event) -> Event:
        """Enter the event; gives it back with its `account`, if it is of a kind that has one.

        An event that comes a second time is copied: what the first passage has been given stays true of it.
        """
        try:
            account = self.judge(event)
            before = getattr(event, "account", None)
            if before is not None:
                event = copy.copy(event)
            if account is not None or before is not None:
                event.account = account
        except Exception:  # noqa: BLE001 - an event may be anything, and must still become a span and be counted
            self.failed += 1
        return event

    def judge(self, event: Event) -> Any:
        """Enter the event and give its account: of a model call, of a run that ends, or what a cache hit has saved."""
        entry = _ENTRIES.get(event.__class__)
        if entry is None:
            return None
        if event.__class__ is LlmRequest and self._prices is not None:
            self._warm(event)  # without the lock: this may take a while
        with self._lock:
            self._number += 1
            return entry(self, event)

    # -- calls --------------------------------------------------------------------------------------------------------

    def _request(self, event: LlmRequest) -> None:
        name = name_of(event, self._sums.at(event)[0])
        call = self._calls.get(name)
        if event.call_id is not None and (call is None or not (call.asked or call.told)):
            if call is None:
                call = self._call(name)
            call.ask(event, self._number)

    def _response(self, event: LlmResponse) -> Account:
        usage = counts_of(event)
        place, run = self._sums.at(event)
        name = name_of(event, place)
        call = self._calls.get(name)
        if call is not None and call.told:
            account = self._again(event, usage, call, "call_id" if len(name) == _BY_ID else "event")
        else:
            if call is None:
                call = self._call(name)
            call.tell(event, usage, self._number)
            if call.nest is None and event.parent_call_id is None and event.response_id is None:
                account = self._price(event, usage, None)  # nothing else can have told of it
                call.known |= _knowledge(account)
            else:
                account = self._first(event, usage, call)
        if run is not None:
            self._sums.add(run, account)
        return account

    def _call(self, name: CallName) -> Call:
        call = Call(name)
        if len(name) > 1:
            self._calls.put(name, call)
        return call

    def _first(self, event: LlmResponse, usage: Usage, call: Call) -> Account:
        """The account of a call that was not told of under this name; something else may have told of it."""
        around = None if event.parent_call_id is None else self._around(event)
        untold = call.nest and call.nest.untold
        known: Sequence[Call] = () if call.nest is None else self._told_inside(call)
        if known:
            account = self._rest(event, usage, known) if untold else self._complete(event, usage, known, "enclosing")
        elif not untold and around is not None and self._is_told_around(call, around):
            known = (around,)
            account = self._complete(event, usage, known, "enclosing")
        elif not untold and (same := self._under_one_id(event, call)) is not None:
            known = (same,)
            account = self._again(event, usage, same, "response_id")
        elif around is not None and self._waits(event, call, around):
            return _DUPLICATES["enclosing"]
        else:
            account = self._price(event, usage, None if call.nest is None else call.nest.hit)
        call.known |= _knowledge(account)
        if known:
            call.known |= _knowledge_of(known)
        if around is not None and not around.told and len(around.nested().inner) < INNER:
            around.nested().inner.append(call)
        return account

    def _again(self, event: LlmResponse, usage: Usage, call: Call, why: str) -> Account:
        """The account of a call that was told of before."""
        waits_in = None if call.nest is None else call.nest.waits_in
        if waits_in is None:
            return self._complete(event, usage, (call,), why)
        if waits_in.told:  # it has told in the place of this one
            return self._complete(event, usage, (waits_in,), why)
        return self._settle(event, usage, call, waits_in) or _DUPLICATES[why]

    def _around(self, event: LlmResponse | CacheHit) -> Call | None:
        """The model call that directly encloses what this tells of; made where nothing was told of it yet."""
        if event.parent_call_id is None:
            return None
        name = around_of(event, self._sums.at(event)[0])
        return None if name is None else self._calls.get(name) or self._call(name)

    # -- who has told before ------------------------------------------------------------------------------------------

    def _told_inside(self, call: Call) -> Sequence[Call]:
        """The calls inside of this one that have told of it."""
        if call.nest is None or not call.nest.inner:
            return ()
        inner = [inside for inside in call.nest.inner if is_told_within(inside, call)]
        call.nest.inner = []
        if not inner or not (call.nest.untold or may_sum(call, inner)):
            return ()
        call.known |= COVERED
        return inner

    def _is_told_around(self, call: Call, around: Call) -> bool:
        """Whether the call that encloses this one has ended before it, and has told of it."""
        if not around.told or around is call or around.known & COVERED:
            return False
        if not (is_told_within(call, around) and may_sum(around, (call,))):
            return False
        around.known |= COVERED  # what else comes late is another call
        return True

    def _under_one_id(self, event: LlmResponse, call: Call) -> Call | None:
        given = id_of(event.response_id)
        if given is None:
            return None
        response_id = hash(given)
        before = self._responses.get(response_id)
        if before is None:
            self._responses.put(response_id, call)
        elif not isinstance(before, Call):
            return None
        elif (before.name[0] == call.name[0] or event.invocation_id is None) and is_same(before, call):
            return before
        else:
            self._responses.put(response_id, False)
        return None

    def _waits(self, event: LlmResponse, call: Call, around: Call) -> bool:
        """Whether the enclosing call, which has not ended, will tell what this one does not know."""
        if not around.asked or around.told or call.known & (USED | FAILED) or not share(call.models, around.models):
            return False
        if event.cost_usd is not None or (call.nest is not None and call.nest.hit is not None):
            return False
        nest = around.nested()
        if nest.untold is not None:
            return False
        nest.untold = call
        call.nested().waits_in = around
        return True

    def _settle(self, event: LlmResponse, usage: Usage, call: Call, waits_in: Call) -> Account | None:
        """What was to be told by the enclosing call is told now; None where nothing is."""
        if _is_unknown(usage) and event.cost_usd is None:
            return None
        call.usage = usage
        call.nested().waits_in = None
        waits_in.nested().untold = None
        waits_in.nested().inner.append(call)
        account = self._price(event, usage, None)
        call.known |= _knowledge(account)
        return account

    # -- what it adds -------------------------------------------------------------------------------------------------

    def _rest(self, event: LlmResponse, usage: Usage, known: Sequence[Call]) -> Account:
        """The account of the one call inside that did not tell: what the enclosing one has more than the others."""
        told = [inner.usage for inner in known]
        usage = rest(usage, total(told)) if len(told) < INNER else NOTHING  # there may have been more of them
        why = known_of(usage)
        return Account(usage, None, why) if why is not None else Account(usage, *self._charge(event, usage))

    def _complete(self, event: LlmResponse, usage: Usage, known: Sequence[Call], why: str) -> Account:
        """What this telling adds to what is known: its usage, its cost, both or nothing."""
        knowledge = _knowledge_of(known)
        if knowledge == USED | COSTED:
            return _DUPLICATES[why]
        used = NOTHING if knowledge & USED or _is_unknown(usage) else usage
        if knowledge & COSTED:
            if used is NOTHING:
                return _DUPLICATES[why]
            account = Account(used, None, "duplicate", duplicate=why)
        else:
            priced = self._price(event, usage, None)
            if priced.cost_usd is None and used is NOTHING:
                return _DUPLICATES[why]
            account = priced._replace(usage=used, duplicate=why)
        for call in known:
            call.known |= _knowledge(account)
        return account

    def _price(self, event: LlmResponse, usage: Usage, hit: int | None) -> Account:
        said = reported(event)
        if hit is not None and not (said and said[0]):
            return Account(NOTHING, 0.0, "cached", self._saved(event, usage, hit))
        if said is not None:
            return Account(usage, *said)
        return Account(usage, *self._charge(event, usage))

    def _warm(self, event: Any) -> None:
        try:
            if self._prices is not None:
                self._prices.warm(event)
        except Exception:  # noqa: BLE001 - the price list may be the program's own; the call is counted without it
            self.failed += 1

    def _charge(self, event: LlmResponse, usage: Usage) -> tuple[float | None, str]:
        """By list. What has no token counts may still have others that cost (seconds, pages): the list knows."""
        why = known_of(usage)
        if why == "invalid_usage" or self._prices is None or (why and not event.usage):
            return None, why or "no_price_source"
        try:
            return self._prices.charge(event, usage)
        except Exception:  # noqa: BLE001 - the price list may be the program's own; the call is counted without it
            self.failed += 1
            return None, "no_price_source"

    def _saved(self, event: LlmResponse, usage: Usage, hit: int) -> float:
        """What the call would have cost: by its usage or, of tokens of which no more is known, as input at least."""
        if known_of(usage) is not None:
            if hit == _UNKNOWN_SAVING:
                return 0.0
            usage = Usage(hit, 0, None, None, None)
        return self._charge(event, usage)[0] or 0.0

    # -- answers from the application's own cache ---------------------------------------------------------------------

    def _hit(self, event: CacheHit) -> float | None:
        """A hit inside a model call makes that call's answer a cached one; one before any call saves a call."""
        saved = count(event.tokens_saved)
        if _is_provider_cache(event.cache_type):
            return None
        around = self._around(event)
        if around is not None:
            around.nested().hit = _UNKNOWN_SAVING if saved is None else saved
            return None
        run = self._sums.at(event)[1]
        if run is None or not run.model or not saved:
            return None
        name = (id_of(event.source), id_of(event.seq))
        if None not in name and self._sums.is_known(name):
            return None
        instead = LlmResponse(model_provider=run.provider or "", model=run.model, duration=0.0, success=True)
        instead.time_ns = event.time_ns
        return self._charge(instead, Usage(saved, 0, None, None, None))[0]


_ENTRIES: dict[type[Event], Callable[[Ledger, Any], Any]] = {
    LlmResponse: Ledger._response,
    LlmRequest: Ledger._request,
    AgentStart: lambda ledger, event: ledger._sums.start(event),
    AgentEnd: lambda ledger, event: ledger._sums.end(event),
    ToolCall: lambda ledger, event: ledger._sums.tool(event),
    CacheHit: Ledger._hit,
}

#: How many parts the name of a call has that has an id.
_BY_ID: Final = 2

_DUPLICATES: Final = {
    why: Account(NOTHING, None, "duplicate", duplicate=why) for why in ("call_id", "event", "response_id", "enclosing")
}


def _is_unknown(usage: Usage) -> bool:
    return usage.input is None and usage.output is None


def _knowledge(account: Account) -> int:
    """What is known when this was told. Of an answer from a cache there is nothing more to know."""
    if account.cost_status == "cached":
        return USED | COSTED
    return (0 if _is_unknown(account.usage) else USED) | (0 if account.cost_usd is None else COSTED)


def _knowledge_of(calls: Sequence[Call]) -> int:
    known = 0
    for call in calls:
        known |= call.known & (USED | COSTED)
    return known


def _is_provider_cache(cache_type: object) -> bool:
    if not isinstance(cache_type, str):
        return False
    words = cache_type[:64].lower().replace("_", " ").replace("-", " ").split()
    return bool(words) and words[0] in PROVIDER_CACHES and words[1:] in ([], ["cache"], ["caching"])
