"""What happened, as a tree of rows and as totals that grow while it happens: the model of every view for people."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Any, Literal, NamedTuple

from ..events import (
    AgentEnd,
    AgentStart,
    CacheHit,
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
from .attributes import number
from .ids import call_of
from .ledger import Ledger, Prices
from .phrases import attributes_of, reason_of, told
from .recent import Recent

Kind = Literal["agent", "llm", "tool", "moment"]

#: How many trees are kept, if nobody says it.
TREES = 1_000
#: How many events may wait for somebody who reads.
_UNREAD = 10_000
#: How many trees and sources are remembered of those that are kept no more.
_LEFT_OUT, _SOURCES = 16_384, 1_024
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
    #: Where it goes on, which is known of what has begun only.
    source: str = ""

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


class _Tree(NamedTuple):
    """What is known of one root: the rows that events can name, and those without a parent."""

    keys: list[Key]
    tops: list[Row]
    #: The rows that were told before what is above them, under what they wait for.
    early: dict[Key, list[tuple[Row, Event]]]


class Outline:
    """Hears events, as a handler or from a journal, and knows the tree and the totals of what it has heard.

    Hearing costs the emitter one append; whoever reads pays for the rest, as does the emitter of many events that
    nobody reads. The latest trees are kept, in whole; the totals are those of everything. Calls are priced by `prices`,
    each once.

    Args:
        prices: where prices come from; without them a call costs what its provider says.
        trees: how many trees are kept, of those with the latest beginnings.

    """

    def __init__(self, prices: Prices | None = None, *, trees: int = TREES) -> None:
        self._ledger = Ledger(prices)
        self._trees = max(trees, 1)
        self._heard: deque[Event] = deque()
        self._lock = threading.Lock()
        self._rows: dict[Key, Row] = {}
        self._kept: dict[str, _Tree] = {}
        self._left_out: Recent[str, bool] = Recent(_LEFT_OUT)
        self._last_ns: Recent[str, int] = Recent(_SOURCES)
        self._unnamed = 0
        self._roots: list[Row] = []
        self._totals = Totals()
        self._trace: str | None = None

    def __call__(self, event: Event) -> None:
        """Hear an event."""
        self._heard.append(event)
        if len(self._heard) > _UNREAD:
            self._catch_up()

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

    def interrupt(self, gone: Callable[[str], bool]) -> None:
        """End what goes on in sources that are `gone`, as far as they told of it: with the last that was heard."""
        self._catch_up()
        with self._lock:
            for row in self._rows.values():
                if row.is_open and gone(row.source):
                    row.outcome = "interrupted"
                    row.duration = max((self._last_ns.get(row.source) or 0) - row.started_ns, 0) / 1e9

    def _apply(self, event: Event) -> None:
        self._trace = self._trace or event.trace
        if event.source and event.time_ns:
            self._last_ns.put(event.source, max(event.time_ns, self._last_ns.get(event.source) or 0))
        account = self._ledger.judge(event)
        if isinstance(event, (AgentStart, LlmRequest, ToolCallStart)):
            self._begin(event)
        elif isinstance(event, (AgentEnd, LlmResponse, ToolCall)):
            self._end(event, account)
        elif not isinstance(event, HeartbeatTick):
            row = Row("moment", name_of(event), event.time_ns or 0, detail=told(event), outcome="ok")
            self._place(row, event)
            if isinstance(event, CacheHit):
                self._totals.tokens_saved += event.tokens_saved

    def _begin(self, event: Event) -> Row:
        kind, name, local = _identity(event)
        self._unnamed += not local
        key = (_scope(event), kind, local or f"#{self._unnamed}")
        known = self._rows.get(key)
        if known is not None and known.is_open:
            return known
        row = Row(kind, name, event.time_ns or 0, agent=event.agent or "", keyed=bool(local))
        row.detail, row.source = attributes_of(event), event.source or ""
        if (tree := self._place(row, event)) is not None:
            self._rows[key] = row
            tree.keys.append(key)
            for early, its_event in tree.early.pop(key, ()):
                self._move(early, its_event, tree)
        return row

    def _place(self, row: Row, event: Event) -> _Tree | None:
        """Put the row where it belongs; gives its tree, or None where that is kept no more."""
        root = root_of(event)
        if root and self._left_out.get(root):
            return None
        if not root:
            self._unnamed += 1
            root = f"#{self._unnamed}"
        tree = self._kept.get(root)
        if tree is None:
            tree = self._kept[root] = _Tree([], [], {})
        names = list(_names_above(event))
        row.parent = next(filter(None, map(self._rows.get, names)), None)
        for name in names:
            if name in self._rows:
                break
            tree.early.setdefault(name, []).append((row, event))
        if row.parent is not None:
            row.parent.children.append(row)
        else:
            tree.tops.append(row)
            self._roots.append(row)
        if len(self._kept) > self._trees:
            self._leave_out(next(iter(self._kept)))
        return tree

    def _leave_out(self, root: str) -> None:
        tree = self._kept.pop(root)
        for key in tree.keys:
            self._rows.pop(key, None)
        for row in tree.tops:
            self._roots.remove(row)
        if not root.startswith("#"):
            self._left_out.put(root, True)

    def _move(self, row: Row, event: Event, tree: _Tree) -> None:
        """Put the row below what is above it, which was told after it: in another process, whose clock differs."""
        above = next(filter(None, map(self._rows.get, _names_above(event))), None)
        if above is None or above is row.parent or row in above.up():
            return
        if row.parent is None:
            tree.tops.remove(row)
            self._roots.remove(row)
        else:
            row.parent.children.remove(row)
        before = set(row.up())
        row.parent = above
        above.children.append(row)
        above.children.sort(key=lambda child: child.started_ns)
        for each in above.up():
            if each not in before:
                each.spent.add(row.spent)

    def _end(self, event: AgentEnd | LlmResponse | ToolCall, account: Any) -> None:
        row = self._find(event)
        if row is None:
            row = self._begin(event)
            row.started_ns -= round((number(event.duration) or 0) * 1e9)
        elif not row.is_open:
            return
        else:
            row.detail = " ".join(filter(None, (row.detail, attributes_of(event))))
        row.outcome = event.outcome
        said = number(event.duration)
        row.duration = (event.time_ns or 0) / 1e9 - row.started_ns / 1e9 if said is None else said
        row.reason = reason_of(event)
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


def root_of(event: Event) -> str:
    """The tree that it belongs to; nothing where it belongs to none."""
    return event.root_invocation_id or event.invocation_id or ""


def _names_above(event: Event) -> Iterator[Key]:
    """What may be directly above its row, the closest first."""
    own_run = not isinstance(event, (AgentStart, AgentEnd))
    scope = (event.invocation_id if own_run else event.parent_invocation_id) or ""
    if event.parent_call_id:
        kind, local = call_of(event.parent_call_id)
        for run in dict.fromkeys((scope, event.root_invocation_id or "")):  # a call that stands alone is its own root
            yield run, kind, local
    if scope:
        yield scope, "agent", scope


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
