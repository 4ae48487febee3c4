"""What tools were called, by agent and tool: a bounded table of counts and durations that grows while events pass."""

from __future__ import annotations

from dataclasses import dataclass

from otel_agentbus.events import Event, ToolCall

from .attributes import text
from .latencies import Latencies
from .series import NAME_LENGTH, OTHER, Told
from .summary import ENDS, ROWS

#: Agent and tool.
_Caller = tuple[str | None, str | None]


@dataclass(frozen=True, slots=True)
class ToolRow:
    """The calls of one tool by one agent, each once; in a total the names are None. Latencies are in seconds."""

    agent: str | None
    tool: str | None
    calls: int = 0
    errors: int = 0
    cancelled: int = 0
    p50: float | None = None
    p95: float | None = None
    #: Whether this row, named `other`, has what found no row of its own.
    folded: bool = False


class _Row:
    __slots__ = ("caller", "calls", "cancelled", "errors", "folded", "latencies")

    def __init__(self, caller: _Caller, *, folded: bool = False) -> None:
        self.caller = caller
        self.folded = folded
        self.calls = self.errors = self.cancelled = 0
        self.latencies = Latencies()

    def add(self, event: ToolCall) -> None:
        self.calls += 1
        self.errors += event.outcome == "error"
        self.cancelled += event.outcome == "cancelled"
        self.latencies.add(event.duration)

    def merge(self, other: _Row) -> None:
        self.calls += other.calls
        self.errors += other.errors
        self.cancelled += other.cancelled
        self.latencies.merge(other.latencies)

    def read(self) -> ToolRow:
        p50, p95 = self.latencies.quantile(50), self.latencies.quantile(95)
        return ToolRow(*self.caller, self.calls, self.errors, self.cancelled, p50, p95, self.folded)


class ToolSummary:
    """Hears events, in one thread; what comes after `ROWS` rows is summed up in one row `other`."""

    def __init__(self) -> None:
        self._rows: dict[_Caller, _Row] = {}
        self._ended = Told(ENDS)

    def __call__(self, event: Event) -> None:
        """Count a tool call that is over, once: what a bus has stamped is known again by its ids."""
        if not isinstance(event, ToolCall) or self._again(event):
            return
        caller = text(event.agent, NAME_LENGTH), text(event.tool, NAME_LENGTH)
        row = self._rows.get(caller)
        if row is None and len(self._rows) >= ROWS - 1:
            caller = (OTHER, OTHER)
            row = self._rows.get(caller)
        if row is None:
            row = self._rows[caller] = _Row(caller, folded=len(self._rows) >= ROWS - 1)
        row.add(event)

    def read(self) -> tuple[ToolRow, ...]:
        """The rows by agent and tool, in the order of the first ends."""
        return tuple(row.read() for row in self._rows.values())

    def read_by_tool(self) -> tuple[ToolRow, ...]:
        """The rows by tool alone."""
        groups: dict[tuple[str | None, bool], _Row] = {}
        for row in self._rows.values():
            name = row.caller[1]
            groups.setdefault((name, row.folded), _Row((None, name), folded=row.folded)).merge(row)
        return tuple(group.read() for group in groups.values())

    @property
    def total(self) -> ToolRow:
        """All of them."""
        total = _Row((None, None))
        for row in self._rows.values():
            total.merge(row)
        return total.read()

    def _again(self, event: ToolCall) -> bool:
        if event.seq is None or not (isinstance(event.invocation_id, str) and isinstance(event.tool_call_id, str)):
            return False
        return self._ended.again((event.invocation_id, event.attempt, event.tool_call_id))
