"""What happened, as a tree of rows and as totals that grow while it happens: the model of every view for people."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Any, Literal

from ..events import (
    AgentEnd,
    AgentStart,
    CacheHit,
    CacheMiss,
    ChannelMessage,
    DomainEvent,
    Error,
    Event,
    HeartbeatTick,
    LlmRequest,
    LlmResponse,
    Outcome,
    ToolCall,
    ToolCallStart,
    name_of,
)
from .accounts import account_of, lacks_price
from .ids import call_of
from .ledger import Ledger, Prices

Kind = Literal["agent", "llm", "tool", "moment"]

#: Sums of money must not depend on what the application makes of its decimal numbers.
_EXACT = Context(prec=60, traps=[])


@dataclass(slots=True)
class Spent:
    """What calls have used, summed up. A cost of None is unknown, never 0; `unpriced` calls are not in the sum."""

    calls: int = 0
    errors: int = 0
    cancelled: int = 0
    input: int = 0
    output: int = 0
    cached: int = 0
    cost: Decimal | None = None
    unpriced: int = 0
    seconds: float = 0.0

    def add(self, other: Spent) -> None:
        """Add what another one has."""
        self.calls += other.calls
        self.errors += other.errors
        self.cancelled += other.cancelled
        self.input += other.input
        self.output += other.output
        self.cached += other.cached
        if other.cost is not None:
            self.cost = other.cost if self.cost is None else _EXACT.add(self.cost, other.cost)
        self.unpriced += other.unpriced
        self.seconds += other.seconds


@dataclass(slots=True, eq=False)
class Row:
    """One run, call or moment of the tree. It is still going on while `outcome` is None."""

    kind: Kind
    name: str
    started_ns: int
    parent: Row | None = None
    #: What was said of it: attributes, or what a moment is about.
    detail: str = ""
    #: Why it did not end well.
    reason: str = ""
    duration: float | None = None
    outcome: Outcome | None = None
    #: What the model calls here and below have used so far.
    spent: Spent = field(default_factory=Spent)
    children: list[Row] = field(default_factory=list)
    agent: str = ""
    keyed: bool = True

    @property
    def is_open(self) -> bool:
        """Whether it is still going on."""
        return self.outcome is None

    def seconds(self, now_ns: int) -> float:
        """How long it took, or has taken until now."""
        return max(now_ns - self.started_ns, 0) / 1e9 if self.duration is None else self.duration

    def up(self) -> Iterator[Row]:
        """The row itself and those above it."""
        row: Row | None = self
        while row is not None:
            yield row
            row = row.parent


@dataclass(slots=True)
class Totals:
    """The sums of a whole outline; `models` by agent and model, in the order of their first calls."""

    models: dict[tuple[str, str], Spent] = field(default_factory=dict)
    llm: Spent = field(default_factory=Spent)
    runs: Spent = field(default_factory=Spent)
    tools: Spent = field(default_factory=Spent)
    tokens_saved: int = 0


#: What names a row among the others: its run, its kind, and its id in the run.
Key = tuple[str, str, str]


class Outline:
    """Hears events, as a handler or from a journal, and knows the tree and the totals of what it has heard.

    Hearing costs the emitter one append; whoever reads pays for the rest. It keeps everything: it is for programs that
    a person looks at, not for a service that runs for weeks. Calls are priced by `prices`, each once.
    """

    def __init__(self, prices: Prices | None = None) -> None:
        self._ledger = Ledger(prices)
        self._heard: deque[Event] = deque()
        self._lock = threading.Lock()
        self._rows: dict[Key, Row] = {}
        self._roots: list[Row] = []
        self._totals = Totals()
        self._trace: str | None = None

    def __call__(self, event: Event) -> None:
        """Hear an event."""
        self._heard.append(event)

    @property
    def roots(self) -> list[Row]:
        """The tops of the trees, in the order of their beginnings."""
        self._catch_up()
        return self._roots

    @property
    def totals(self) -> Totals:
        """The sums of what has ended so far."""
        self._catch_up()
        return self._totals

    @property
    def trace(self) -> str | None:
        """The `trace` of the first event that has one: its trace id and the sampling decision."""
        self._catch_up()
        return self._trace

    def _catch_up(self) -> None:
        with self._lock:
            while self._heard:
                self._apply(self._heard.popleft())

    def _apply(self, event: Event) -> None:
        self._trace = self._trace or event.trace
        account = self._ledger.judge(event)
        if isinstance(event, (AgentStart, LlmRequest, ToolCallStart)):
            self._begin(event)
        elif isinstance(event, (AgentEnd, LlmResponse, ToolCall)):
            self._end(event, account)
        elif not isinstance(event, HeartbeatTick):
            row = Row("moment", name_of(event), event.time_ns or 0, detail=_told(event), outcome="ok")
            self._place(row, event)
            if isinstance(event, CacheHit):
                self._totals.tokens_saved += event.tokens_saved

    def _begin(self, event: Event) -> Row:
        kind, name, local = _identity(event)
        key = (_scope(event), kind, local or f"#{len(self._rows)}")
        known = self._rows.get(key)
        if known is not None and known.is_open:
            return known
        row = Row(kind, name, event.time_ns or 0, agent=event.agent or "", keyed=bool(local))
        row.detail = _attributes(event)
        self._place(row, event)
        self._rows[key] = row
        return row

    def _place(self, row: Row, event: Event) -> None:
        row.parent = self._above(event)
        (self._roots if row.parent is None else row.parent.children).append(row)

    def _above(self, event: Event) -> Row | None:
        own_run = not isinstance(event, (AgentStart, AgentEnd))
        scope = (event.invocation_id if own_run else event.parent_invocation_id) or ""
        if event.parent_call_id:
            kind, local = call_of(event.parent_call_id)
            for run in (scope, event.root_invocation_id or ""):  # a call that stands alone is its own root
                if found := self._rows.get((run, kind, local)):
                    return found
        return self._rows.get((scope, "agent", scope)) if scope else None

    def _end(self, event: AgentEnd | LlmResponse | ToolCall, account: Any) -> None:
        row = self._find(event)
        if row is None:
            row = self._begin(event)
            row.started_ns -= round((event.duration or 0) * 1e9)
        elif not row.is_open:
            return
        else:
            row.detail = " ".join(filter(None, (row.detail, _attributes(event))))
        row.outcome = event.outcome
        row.duration = (event.time_ns or 0) / 1e9 - row.started_ns / 1e9 if event.duration is None else event.duration
        row.reason = _reason(event)
        self._count(row, event, account)

    def _find(self, event: Event) -> Row | None:
        kind, name, local = _identity(event)
        scope = _scope(event)
        if local:
            return self._rows.get((scope, kind, local))
        for (run, *_), row in self._rows.items():  # a model call pairs with the one in flight, whatever its model
            same = row.kind == kind and (kind == "llm" or row.name == name)
            if run == scope and same and row.is_open and not row.keyed:
                return row
        return None

    def _count(self, row: Row, event: AgentEnd | LlmResponse | ToolCall, account: Any) -> None:
        totals = self._totals
        failed, cancelled = row.outcome == "error", row.outcome == "cancelled"
        spent = Spent(1, int(failed), int(cancelled), seconds=row.duration or 0.0)
        if isinstance(event, AgentEnd):
            totals.runs.add(spent)
        elif isinstance(event, ToolCall):
            totals.tools.add(spent)
        else:
            told = account or account_of(event)
            usage, cost, _status, _saved, duplicate = told
            spent.calls = int(duplicate is None)
            spent.input, spent.output, spent.cached = usage.input or 0, usage.output or 0, usage.cache_read or 0
            spent.cost = None if cost is None else Decimal(repr(cost))
            spent.unpriced = int(lacks_price(event, told) and told.cost_status != "no_usage")
            for above in row.up():
                above.spent.add(spent)
            totals.models.setdefault((row.agent, event.response_model or event.model), Spent()).add(spent)
            totals.llm.add(spent)


def _scope(event: Event) -> str:
    return event.invocation_id or event.root_invocation_id or ""


def _identity(event: Event) -> tuple[Kind, str, str]:
    """What kind of row, its name, and its id in its run ("" if the producer gives none)."""
    if isinstance(event, (LlmRequest, LlmResponse)):
        operation = event.operation if isinstance(event, LlmRequest) else "chat"
        return "llm", f"{operation} {event.model}".strip(), event.call_id or ""
    if isinstance(event, (ToolCallStart, ToolCall)):
        return "tool", event.tool, event.tool_call_id or ""
    return "agent", event.agent or "agent", event.invocation_id or ""


def _attributes(event: Event) -> str:
    said: dict[str, object] = {key: value for key, value in event.attributes.items() if not key.startswith("agentbus.")}
    if isinstance(event, LlmResponse) and event.time_to_first_chunk is not None:
        said["first_chunk"] = f"{event.time_to_first_chunk:.2f}s"
    return _pairs(said)


def _pairs(said: dict[str, object]) -> str:
    return " ".join(f"{key}={value}" for key, value in said.items())


def _reason(event: AgentEnd | LlmResponse | ToolCall) -> str:
    if event.outcome != "error":
        return "" if event.outcome in ("ok", None) else str(event.outcome)
    kind = (event.error_type or "error").rpartition(".")[2]
    return f"{kind}: {event.error_message}" if event.error_message else kind


def _budget(said: Mapping[str, Any]) -> str:
    """How much of a budget is spent, or whatever else somebody says under that name."""
    try:
        spent, limit, sign = float(said["spent"]), float(said["limit"]), "$" if said["unit"] == "usd" else ""
        return f"{said['budget']}: {sign}{spent:,.4g} of {sign}{limit:,.4g}, {spent / limit:.0%}"
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return _pairs(dict(said))


def _told(event: Event) -> str:
    """What a moment says, in a few words."""
    if isinstance(event, CacheHit):
        return f"{event.cache_type}, {event.tokens_saved:,} tokens saved"
    if isinstance(event, CacheMiss):
        return event.cache_type
    if isinstance(event, DomainEvent):
        return _budget(event.data) if event.name == "budget_threshold_hit" else _pairs(dict(event.data))
    if isinstance(event, Error):
        return f"{event.component}: {event.message}"
    if isinstance(event, ChannelMessage):
        return f"{event.direction} {event.channel}"
    return str(getattr(event, "deploy_id", ""))
