"""The ledger of model calls: each call is entered once, priced once, and whatever tells of it again adds nothing.

A call is known by its call id in its run, by the provider's id of its response, and by its place: a framework's call
that encloses the provider's own is the same call, and the inner one, which ends first, has told of it. Two tellings are
taken for one only where nothing speaks against it: another model, other counts or another time make another call.
"""

from __future__ import annotations

import copy
import re
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol, TypeVar

from otel_agentbus.events import AgentEnd, AgentStart, CacheHit, Event, LlmRequest, LlmResponse, ToolCall

from .accounts import NOTHING, Account, RunAccount, known_of, mismatch, reported, unpriced, used_by
from .ids import call_of
from .usage import Usage, count, usage_of

#: How many calls, and how many runs, are remembered; of what is older nothing is recognised any more.
CALLS, RUNS = 16_384, 10_000
#: How far upwards a run's callers are followed; a lineage that is longer (or a circle) is somebody's mistake.
DEPTH = 64
#: A call that another one encloses may seem to begin or end this much outside of it: they read their clocks apart.
SLACK_NS = 50_000_000
#: Caches that providers keep: they make a call cheaper, which its usage says, but the call is made and paid.
PROVIDER_CACHES = frozenset(("prompt", "prefix", "context", "kv", "provider"))

#: What a model's name may end with and still be the same model: a date, a version, "latest".
_SAME_MODEL = re.compile(r"[-@:](\d{4}.*|latest|v\d.*|preview.*)")

#: root, invocation, attempt, call id
CallName = tuple[object, ...]

K = TypeVar("K")
V = TypeVar("V")


class Prices(Protocol):
    """Where prices come from (see `pricing.PriceBook`)."""

    def charge(self, event: LlmResponse, usage: Usage) -> tuple[float | None, str]:
        """What the call costs by list, in USD, and how that is known or why not."""

    def warm(self, event: LlmRequest | LlmResponse) -> None:
        """Look up now what the answer to this request will need."""


@dataclass(slots=True, eq=False)
class _Call:
    """A call that was told of."""

    start_ns: int
    end_ns: int
    models: frozenset[str]
    usage: Usage

    @property
    def has_usage(self) -> bool:
        return self.usage.input is not None or self.usage.output is not None


@dataclass(slots=True, eq=False)
class _Run:
    """A run that is going on, as far as this process tells of it."""

    parent: str | None
    provider: str | None
    model: str | None
    inference_calls: int = 0
    tool_calls: int = 0
    totals: dict[str, float] = field(default_factory=dict)


class Ledger:
    """Enters the events of one process as they come; thread-safe, bounded, and never asks the agent to wait."""

    def __init__(self, prices: Prices | None = None) -> None:
        #: How many events could not be entered.
        self.failed = 0
        self._prices = prices
        self._lock = threading.RLock()
        self._told: OrderedDict[CallName, _Call] = OrderedDict()
        self._responses: OrderedDict[CallName, _Call] = OrderedDict()
        self._asked: OrderedDict[CallName, frozenset[str]] = OrderedDict()
        self._within: OrderedDict[CallName, list[_Call]] = OrderedDict()
        self._hits: OrderedDict[CallName, int] = OrderedDict()
        self._runs: OrderedDict[str, _Run] = OrderedDict()

    def enter(self, event: Event) -> Event:
        """Enter the event; gives it back with its `account`, if it is of a kind that has one.

        An event that comes a second time is copied: what the first passage has been given stays true of it.
        """
        try:
            account = self.judge(event)
        except Exception:  # noqa: BLE001 - an event may be anything, and must still become a span and be counted
            self.failed += 1
            return event
        if account is not None:
            if getattr(event, "account", None) is not None:
                event = copy.copy(event)
            event.account = account
        return event

    def judge(self, event: Event) -> Any:
        """Enter the event and give its account: of a model call, of a run that ends, or what a cache hit has saved."""
        entry = _ENTRIES.get(event.__class__)
        if entry is None:
            return None
        with self._lock:
            return entry(self, event)

    def forget(self) -> None:
        """Start from nothing, with a lock of its own: in the child of a fork, where the parent tells of its calls."""
        self.__init__(self._prices)  # type: ignore[misc]  # nothing of the parent's may stay

    # -- calls --------------------------------------------------------------------------------------------------------

    def _request(self, event: LlmRequest) -> None:
        if event.call_id is not None:
            _keep(self._asked, _name(event, event.call_id), _models(event.model, None), CALLS)
        if self._prices is not None:
            self._prices.warm(event)

    def _response(self, event: LlmResponse) -> Account:
        usage = usage_of(event)
        end_ns = event.time_ns or 0
        duration = event.duration if isinstance(event.duration, (int, float)) and 0 <= event.duration < 1e9 else 0
        models = _models(event.model, event.response_model)
        call = _Call(end_ns - int(duration * 1e9), end_ns, models, usage)
        name = None if event.call_id is None else _name(event, event.call_id)
        before, why = self._before(event, call, name)
        if name is not None:
            self._asked.pop(name, None)
            hit = self._hits.pop(name, None)
        else:
            hit = None
        if why is None:
            account = self._price(event, usage, hit)
            self._remember(event, call, name)
        elif before is not None and not before.has_usage and call.has_usage:  # the first telling did not know
            before.usage = usage
            account = self._price(event, usage, hit)._replace(duplicate=why)
        else:
            account = Account(NOTHING, None, "duplicate", duplicate=why)
        self._add_up(event, account)
        return account

    def _before(self, event: LlmResponse, call: _Call, name: CallName | None) -> tuple[_Call | None, str | None]:
        """What has told of this call before, and what gives that away; neither, where it is new."""
        if name is not None and (before := self._told.get(name)) is not None:
            return before, "call_id"
        if name is None and event.seq is not None:
            before = self._told.get((event.source, event.seq))
            if before is not None:
                return before, "event"
        if event.response_id:
            before = self._responses.get(_response_name(event))
            if before is not None and _is_same(before, call):
                return before, "response_id"
        if name is not None and any(_share(inner.models, call.models) for inner in self._within.pop(name, ())):
            return None, "enclosing"
        around = None if call.has_usage else _enclosing(event)
        asked = None if around is None else self._asked.get(around)
        if asked is not None and _share(asked, call.models):
            return None, "enclosing"  # the enclosing call, which has not ended, will tell
        return None, None

    def _remember(self, event: LlmResponse, call: _Call, name: CallName | None) -> None:
        if name is not None:
            _keep(self._told, name, call, CALLS)
        elif event.seq is not None:
            _keep(self._told, (event.source, event.seq), call, CALLS)
        if event.response_id:
            _keep(self._responses, _response_name(event), call, CALLS)
        around = _enclosing(event)
        if around is not None:
            inner = self._within.get(around)
            if inner is None:
                _keep(self._within, around, [call], CALLS)
            elif len(inner) < DEPTH:
                inner.append(call)

    def _price(self, event: LlmResponse, usage: Usage, hit: int | None) -> Account:
        said = reported(event)
        if hit is not None and not (said and said[0]):
            return Account(NOTHING, 0.0, "cached", self._saved(event, usage, hit))
        if said is not None:
            return Account(usage, *said)
        why = known_of(usage)
        if why is not None:
            return Account(usage, None, why)
        if self._prices is None:
            return unpriced(event)
        return Account(usage, *self._prices.charge(event, usage))

    def _add_up(self, event: LlmResponse, account: Account) -> None:
        run = self._runs.get(event.invocation_id or "")
        if run is None:
            return
        if account.duplicate is None:
            run.inference_calls += 1
        used = used_by(account)
        for _ in range(DEPTH):
            for key, amount in used.items():
                run.totals[key] = run.totals.get(key, 0) + amount
            above = self._runs.get(run.parent or "")
            if above is None or above is run:
                return
            run = above

    # -- runs ---------------------------------------------------------------------------------------------------------

    def _start(self, event: AgentStart) -> None:
        if event.invocation_id is not None:
            run = _Run(event.parent_invocation_id, event.model_provider, event.model)
            _keep(self._runs, event.invocation_id, run, RUNS)

    def _tool(self, event: ToolCall) -> None:
        run = self._runs.get(event.invocation_id or "")
        if run is not None:
            run.tool_calls += 1

    def _end(self, event: AgentEnd) -> RunAccount | None:
        run = self._runs.pop(event.invocation_id, None) if event.invocation_id is not None else None
        if run is None:
            return None
        return RunAccount(run.inference_calls, run.tool_calls, mismatch(event, run.totals))

    # -- answers from the application's own cache ---------------------------------------------------------------------

    def _hit(self, event: CacheHit) -> float | None:
        """A hit inside a model call makes that call's answer a cached one; one before any call saves a call."""
        saved = count(event.tokens_saved)
        if saved is None or str(event.cache_type).lower() in PROVIDER_CACHES:
            return None
        around = _enclosing(event)
        if around is not None:
            _keep(self._hits, around, saved, CALLS)
            return None
        run = self._runs.get(event.invocation_id or "")
        if run is None or not run.model:
            return None
        instead = LlmResponse(model_provider=run.provider or "", model=run.model, duration=0.0, success=True)
        instead.time_ns = event.time_ns
        return self._listed(instead, Usage(saved, 0, None, None, None))

    def _saved(self, event: LlmResponse, usage: Usage, hit: int) -> float:
        """What the call would have cost: by its usage or, of tokens of which no more is known, as input at least."""
        return self._listed(event, usage if known_of(usage) is None else Usage(hit, 0, None, None, None)) or 0.0

    def _listed(self, event: LlmResponse, usage: Usage) -> float | None:
        return None if self._prices is None else self._prices.charge(event, usage)[0]


_ENTRIES: dict[type[Event], Callable[[Ledger, Any], Any]] = {
    LlmResponse: Ledger._response,
    LlmRequest: Ledger._request,
    AgentStart: Ledger._start,
    AgentEnd: Ledger._end,
    ToolCall: Ledger._tool,
    CacheHit: Ledger._hit,
}


def _name(event: Event, call_id: str) -> CallName:
    return event.root_invocation_id, event.invocation_id, event.attempt, call_id


def _enclosing(event: Event) -> CallName | None:
    """The model call that directly encloses what this event tells of."""
    if not event.parent_call_id:
        return None
    kind, call_id = call_of(event.parent_call_id)
    return _name(event, call_id) if kind == "llm" else None


def _response_name(event: LlmResponse) -> CallName:
    return event.root_invocation_id, event.invocation_id, event.response_id


@lru_cache(maxsize=1024)
def _models(model: str | None, response_model: str | None) -> frozenset[str]:
    """The names under which a model may be known: without the vendor's prefix, in lower case."""
    return frozenset(name.rpartition("/")[2].lower() for name in (model, response_model) if name)


def _share(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether two calls may be of the same model. A call that names none may be of any."""
    return not one or not other or any(_is_same_model(a, b) for a in one for b in other)


def _is_same_model(one: str, other: str) -> bool:
    short, long = sorted((one, other), key=len)
    return short == long or (long.startswith(short) and _SAME_MODEL.fullmatch(long, len(short)) is not None)


def _is_same(one: _Call, other: _Call) -> bool:
    """Whether two tellings under one response id are of one call: one within the other, with the same counts if any.

    Test doubles and some servers give every response the same id.
    """
    if not (_is_within(one, other) or _is_within(other, one)):
        return False
    if not (one.has_usage and other.has_usage):
        return True
    return one.usage.input == other.usage.input and one.usage.output == other.usage.output


def _is_within(inner: _Call, outer: _Call) -> bool:
    return outer.start_ns - SLACK_NS <= inner.start_ns and inner.end_ns <= outer.end_ns + SLACK_NS


def _keep(table: OrderedDict[K, V], key: K, value: V, limit: int) -> None:
    table[key] = value
    if len(table) > limit:
        table.popitem(last=False)
