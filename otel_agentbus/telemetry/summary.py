"""What a process has used, by agent and model: a bounded table of sums that grows while events pass."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Any, Literal

from otel_agentbus.events import AgentEnd, AgentStart, CacheHit, Event, LlmResponse, ToolCall

from .accounts import Account, account_of, lacks_price
from .attributes import number, text
from .call_metrics import outcome
from .conventions import provider_name
from .latencies import Latencies
from .series import NAME_LENGTH, OTHER, Pending, Told

#: How many rows there are at most, of models and of agents each; the last one is `other`.
ROWS = 500
#: How many runs may go on at once and still be known by their model, when an answer comes from a cache instead.
OPEN_RUNS = 10_000

#: How many ends of runs and tools are known again when they are told again.
ENDS = 16_384

_CACHED = 4096
#: Sums of money must not depend on what the application makes of its decimal numbers.
_EXACT = Context(prec=60, traps=[])
#: The status of a telling that knows no more of the cost than an earlier one.
TOLD = "duplicate"
#: Why a call has no price as long as nobody has told its tokens.
_UNTOLD = ("no_usage", "invalid_usage")

_COUNTS = (
    *("calls", "errors", "cancelled", "duplicates"),
    *("input", "output", "cached", "cache_write", "reasoning"),
)

#: Agent, provider, model.
Spender = tuple[str | None, str | None, str | None]


@dataclass(frozen=True, slots=True)
class SummaryRow:
    """What one agent has used of one model, each call once; in a total the three names are None.

    Tokens are counts, `input` and `output` totals of which the others are parts. Money is in USD, latencies are in
    seconds, of all calls whatever their outcome, with an error of at most 1 %.
    """

    agent: str | None
    provider: str | None
    #: The model that has answered or, where nobody says which, the one that was asked.
    model: str | None
    calls: int = 0
    errors: int = 0
    cancelled: int = 0
    input: int = 0
    output: int = 0
    #: Input tokens that the provider had in its cache.
    cached: int = 0
    cache_write: int = 0
    reasoning: int = 0
    #: What the calls cost as far as it is known; None where it is known of none. `unpriced` calls are not in it.
    cost: float | None = None
    #: What answers from the application's own cache would have cost.
    saved: float = 0.0
    #: The calls whose cost is not known by the reason, a cost status: `no_usage`, `unknown_model`, ...
    reasons: Mapping[str, int] = field(default_factory=dict)
    #: How often a call was told of again, which is not counted.
    duplicates: int = 0
    p50: float | None = None
    p95: float | None = None
    #: Whether this row, named `other`, has what found no row of its own.
    folded: bool = False

    @property
    def unpriced(self) -> int:
        """How many calls have no known cost; if any, `cost` is a part only."""
        return sum(self.reasons.values())


@dataclass(frozen=True, slots=True)
class AgentRow:
    """What one agent has done besides: the runs that have ended, by outcome, and its tool calls."""

    agent: str | None
    runs: Mapping[str, int]
    tools: int = 0
    tool_errors: int = 0
    folded: bool = False


@dataclass(frozen=True, slots=True)
class SummaryData:
    """What was used up to a moment. Unknown is never 0."""

    #: In the order of the first calls.
    rows: tuple[SummaryRow, ...]
    #: In the order of the first ends of a run or a tool call; empty of agents of which neither has ended.
    agents: tuple[AgentRow, ...]
    total: SummaryRow

    @property
    def is_empty(self) -> bool:
        """Whether nothing has happened that is counted here."""
        return not self.rows and not self.agents


class _Row:
    """The sums of one row while they grow."""

    __slots__ = (*_COUNTS, "cost", "folded", "latencies", "reasons", "saved", "spender")

    def __init__(self, spender: Spender, *, folded: bool = False) -> None:
        self.spender = spender
        self.folded = folded
        self.calls = self.errors = self.cancelled = self.duplicates = 0
        self.input = self.output = self.cached = self.cache_write = self.reasoning = 0
        self.reasons: Counter[str] = Counter()
        self.cost: Decimal | None = None
        self.saved = Decimal(0)
        self.latencies = Latencies()

    def add(self, event: LlmResponse, account: Account) -> None:
        """Add a telling of a call."""
        if account.duplicate is None:
            self.calls += 1
            self.errors += event.outcome == "error"
            self.cancelled += event.outcome == "cancelled"
            self.latencies.add(event.duration)
            if lacks_price(event, account):
                self.reasons[account.cost_status] += 1
        else:
            self.duplicates += 1
            self._complete(account)
        usage = account.usage
        self.input += usage.input or 0
        self.output += usage.output or 0
        self.cached += usage.cache_read or 0
        self.cache_write += usage.cache_write or 0
        self.reasoning += usage.reasoning or 0
        if account.cost_usd is not None:
            self.cost = _EXACT.add(self.cost or Decimal(0), _money(account.cost_usd))
        self.save(account.saved_usd)

    def save(self, usd: float) -> None:
        """Add what a cached answer would have cost."""
        if usd:
            self.saved = _EXACT.add(self.saved, _money(usd))

    def _complete(self, account: Account) -> None:
        """A later telling knows what the first did not: what kept the cost unknown has passed, or is another reason.

        The reason is looked for in this row: whether it was this very call's matters to no sum.
        """
        if account.cost_status == TOLD:
            return
        tokens = account.usage.input is not None or account.usage.output is not None
        others = () if tokens else sorted(self.reasons.keys() - _UNTOLD)
        passed = next((reason for reason in (*others, *_UNTOLD) if self.reasons[reason]), None)
        if passed is not None:
            self.reasons[passed] -= 1
            if account.cost_usd is None:
                self.reasons[account.cost_status] += 1

    def merge(self, other: _Row) -> None:
        """Add what another row has."""
        for count in _COUNTS:
            setattr(self, count, getattr(self, count) + getattr(other, count))
        self.reasons.update(other.reasons)
        if other.cost is not None:
            self.cost = _EXACT.add(self.cost or Decimal(0), other.cost)
        self.saved = _EXACT.add(self.saved, other.saved)
        self.latencies.merge(other.latencies)

    def read(self) -> SummaryRow:
        """The sums as they are."""
        agent, provider, model = self.spender
        return SummaryRow(
            agent,
            provider,
            model,
            **{count: getattr(self, count) for count in _COUNTS},
            cost=None if self.cost is None else float(self.cost),
            saved=float(self.saved),
            reasons=dict(+self.reasons),
            p50=self.latencies.quantile(50),
            p95=self.latencies.quantile(95),
            folded=self.folded,
        )


class _Agent:
    """The same of one agent."""

    __slots__ = ("folded", "name", "runs", "tool_errors", "tools")

    def __init__(self, name: str | None, *, folded: bool = False) -> None:
        self.name = name
        self.folded = folded
        self.runs: Counter[str] = Counter()
        self.tools = self.tool_errors = 0

    def read(self) -> AgentRow:
        return AgentRow(self.name, dict(self.runs), self.tools, self.tool_errors, self.folded)


class Summary:
    """Hears every event after the ledger has entered it; may be read from any thread at any time.

    There are at most `ROWS` rows: what comes later is summed up in one row `other`, so that the total stays right.
    """

    def __init__(self) -> None:
        #: How many events could not be counted.
        self.failed = 0
        self._lock = threading.RLock()
        self._rows: dict[Spender, _Row] = {}
        self._agents: dict[str | None, _Agent] = {}
        self._other: _Row | None = None
        self._other_agent: _Agent | None = None
        #: The row of an event's names as they are given.
        self._found: dict[tuple[object, ...], _Row] = {}
        #: Agent, provider and model of the runs that go on, as they are given.
        self._runs: Pending[object, tuple[str | None, ...]] = Pending(OPEN_RUNS)
        self._ended = Told(ENDS)

    def __call__(self, event: Event) -> None:
        """Add what it says."""
        add = _ADDITIONS.get(event.__class__)
        if add is None:
            return
        try:
            with self._lock:
                add(self, event)
        except Exception:  # noqa: BLE001 - an event may be anything, and must still become a span and be counted
            self.failed += 1

    def read(self) -> SummaryData:
        """The sums up to now: a value of its own, that does not change any more."""
        with self._lock:
            rows = [*self._rows.values(), *([] if self._other is None else [self._other])]
            agents = [*self._agents.values(), *([] if self._other_agent is None else [self._other_agent])]
            total = _Row((None, None, None))
            for row in rows:
                total.merge(row)
            return SummaryData(tuple(row.read() for row in rows), tuple(a.read() for a in agents), total.read())

    def read_by(self, name: Literal["agent", "model"]) -> tuple[SummaryRow, ...]:
        """The same rows summed up by one of their names: the others (but a model's provider) are None."""
        with self._lock:
            groups: dict[tuple[Spender, bool], _Row] = {}
            for row in [*self._rows.values(), *([] if self._other is None else [self._other])]:
                agent, provider, model = row.spender
                spender: Spender = (agent, None, None) if name == "agent" else (None, provider, model)
                known = groups.setdefault((spender, row.folded), _Row(spender, folded=row.folded))
                known.merge(row)
            return tuple(group.read() for group in groups.values())

    def forget(self) -> None:
        """Start from nothing, in the child of a fork."""
        self.__init__()  # type: ignore[misc]  # nothing of the parent's may stay, nor its lock

    def _response(self, event: LlmResponse) -> None:
        account = account_of(event)
        model = event.response_model
        if model.__class__ is not str or not model:
            model = event.model if _name(model) is None else model
        self._row(event.agent, event.model_provider, model).add(event, account)

    def _again(self, event: ToolCall | AgentEnd, call_id: str | None) -> bool:
        """Whether this end was told before: by ids that a bus has stamped, which are unique."""
        if event.seq is None or not (isinstance(event.invocation_id, str) and isinstance(call_id, str)):
            return False
        return self._ended.again((event.invocation_id, event.attempt, call_id))

    def _tool(self, event: ToolCall) -> None:
        if self._again(event, event.tool_call_id):
            return
        agent = self._agent(event.agent)
        agent.tools += 1
        agent.tool_errors += event.outcome == "error"

    def _start(self, event: AgentStart) -> None:
        if event.invocation_id is not None:
            self._runs.put(event.invocation_id, (event.agent, event.model_provider, event.model))

    def _end(self, event: AgentEnd) -> None:
        if self._again(event, ""):
            return
        run = None if event.invocation_id is None else self._runs.take(event.invocation_id)
        self._agent(event.agent if run is None else event.agent or run[0]).runs[outcome(event.outcome)] += 1

    def _hit(self, event: CacheHit) -> None:
        """An answer that came before any call was made: it saves a call to the run's own model."""
        saved = number(getattr(event, "account", None))
        if saved:
            agent, provider, model = self._runs.look(event.invocation_id) or (None, None, None)
            self._row(event.agent or agent, provider, model).save(saved)

    def _row(self, *given: object) -> _Row:
        try:
            row = self._found.get(given)
        except Exception:  # noqa: BLE001 - what stands where a name should be need not even be hashable
            row = None
        return row or self._find(given)

    def _find(self, given: tuple[object, ...]) -> _Row:
        agent, provider, model = given
        vendor = provider_name(provider)
        spender = _name(agent), vendor and vendor[:NAME_LENGTH], _name(model)
        row = self._rows.get(spender)
        if row is None:
            if len(self._rows) >= ROWS - 1:
                self._other = self._other or _Row((OTHER, OTHER, OTHER), folded=True)
                return self._other
            row = self._rows[spender] = _Row(spender)
        if all(name is None or (name.__class__ is str and len(str(name)) <= NAME_LENGTH) for name in given):
            if len(self._found) >= _CACHED:
                self._found.clear()
            self._found[given] = row
        return row

    def _agent(self, given: object) -> _Agent:
        name = _name(given)
        agent = self._agents.get(name)
        if agent is None:
            if len(self._agents) >= ROWS - 1:
                self._other_agent = self._other_agent or _Agent(OTHER, folded=True)
                return self._other_agent
            agent = self._agents[name] = _Agent(name)
        return agent


_ADDITIONS: dict[type[Event], Callable[[Summary, Any], None]] = {
    LlmResponse: Summary._response,
    ToolCall: Summary._tool,
    AgentStart: Summary._start,
    AgentEnd: Summary._end,
    CacheHit: Summary._hit,
}


def _name(given: object) -> str | None:
    """The name as the table may show it."""
    return text(given, NAME_LENGTH)


def _money(usd: float) -> Decimal:
    """The amount as it is written, not as it is stored: sums of these are those that people calculate."""
    return Decimal(repr(float(usd)))
