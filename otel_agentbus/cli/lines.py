"""An event as one line: when, in which run, who, what happened, and what matters of it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from otel_agentbus.events import (
    AgentEnd,
    AgentStart,
    Event,
    LlmRequest,
    LlmResponse,
    ToolCall,
    ToolCallStart,
    UnknownEvent,
    name_of,
)
from otel_agentbus.telemetry.attributes import number
from otel_agentbus.telemetry.columns import encodable, latency, printable
from otel_agentbus.telemetry.console import ASCII, Signs, dollars
from otel_agentbus.telemetry.outline import Spent, root_of
from otel_agentbus.telemetry.phrases import attributes_of, reason_of, told
from otel_agentbus.telemetry.recent import Recent

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Narrower terminals get shorter times and columns, then neither the run nor the agent of every line.
WIDE, NARROW = 100, 72
#: How many runs are known by their depth at once.
_RUNS = 16_384
#: How much of a run's id tells it from the others at a glance.
_MARK = 6
#: The widths of columns where there is room, and where there is less.
_AGENT, _KIND = (12, 16), (12, 13)
_DEEPEST = 4
#: The longest text of anybody else in a line.
_LONGEST = 500
_STYLES = {"ok": "green", "error": "bold red", "cancelled": "yellow", "interrupted": "yellow"}

#: A text with its style.
Said = tuple[str, str]


class Lines:
    """Makes a line of each event; knows how deep in its tree each run is.

    Args:
        width: of the terminal; None where lines may have any length and are to be understood by themselves.
        encoding: what can be shown there.

    """

    def __init__(self, width: int | None, encoding: str = "utf-8") -> None:
        self._dated = width is None
        self._wide = width is None or width >= WIDE
        self._narrow = width is not None and width < NARROW
        self._encoding = encoding
        self._signs = Signs() if encoding.startswith("utf") else ASCII
        self._depths: Recent[str, int] = Recent(_RUNS)

    def line(self, event: Event) -> list[Said]:
        """The event as the parts of a line."""
        indent = "  " * min(self._depth(event), _DEEPEST)
        sign, style = self._sign(event)
        name = name_of(event), "bold" if style else ""
        is_run = isinstance(event, (AgentStart, AgentEnd))
        if self._narrow:
            parts = [(self._time(event), "dim"), (f" {indent}{sign} ", style), name]
            parts += [(f" {event.agent or '-'}", "bold")] if is_run else []
        else:
            agent = (indent + (event.agent or "-")).ljust(_AGENT[self._wide])
            parts = [
                (f"{self._time(event)} {self._mark(event)} ", "dim"),
                (f"{agent} ", "bold" if isinstance(event, AgentStart) else ""),
                (f"{sign} ", style),
                (name[0].ljust(_KIND[self._wide]), name[1]),
            ]
        gap = " " if self._narrow else "  "
        parts += [(gap + said, mark) for said, mark in _said(event) if said]
        return [(self._plain(said), mark) for said, mark in parts]

    def day(self, event: Event) -> str:
        """The day of the event, where people look at it."""
        moment = local(event.time_ns)
        return "" if moment is None else f"{moment:%Y-%m-%d}"

    def _depth(self, event: Event) -> int:
        run, parent = event.invocation_id, event.parent_invocation_id
        if not run:
            return 0
        depth = self._depths.get(run)
        if depth is None:
            depth = 0 if not parent else (self._depths.get(parent) or 0) + 1
            self._depths.put(run, depth)
        return depth

    def _time(self, event: Event) -> str:
        moment = local(event.time_ns)
        if moment is None:
            return "-"
        exact = f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03}" if self._wide else f"{moment:%H:%M:%S}"
        return f"{moment:%Y-%m-%d} {exact}" if self._dated else exact

    def _mark(self, event: Event) -> str:
        return root_of(event)[-_MARK:].rjust(_MARK) or "-".rjust(_MARK)

    def _sign(self, event: Event) -> Said:
        outcome = getattr(event, "outcome", None)
        if outcome is None:
            return (" ", "") if isinstance(event, (AgentStart, LlmRequest, ToolCallStart)) else (self._signs.moment, "")
        return str(getattr(self._signs, outcome)), _STYLES[outcome]

    def _plain(self, text: str) -> str:
        return encodable(printable(text[:_LONGEST]), self._encoding)


def local(time_ns: int | None) -> datetime | None:
    """The same moment on the clock of whoever looks; None where it is no moment of any calendar."""
    try:
        seconds, rest = divmod(time_ns or 0, 10**9)
        moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000).astimezone()
    except (OverflowError, OSError, ValueError):
        return None
    return moment if time_ns else None


def today() -> str:
    """The day on the clock of whoever looks."""
    moment = local(time.time_ns())
    assert moment is not None  # a clock shows a time
    return f"{moment:%Y-%m-%d}"


def _said(event: Event) -> Iterator[Said]:
    """What matters of it, the most telling first."""
    if isinstance(event, (LlmRequest, ToolCallStart, AgentStart)):
        yield _subject(event), ""
        if isinstance(event, LlmRequest):
            yield f"{event.messages_count} message{'' if event.messages_count == 1 else 's'}", "dim"
    elif isinstance(event, (LlmResponse, ToolCall, AgentEnd)):
        yield from _ended(event)
    elif isinstance(event, UnknownEvent):
        yield " ".join(f"{key}={value}" for key, value in event.fields.items()), "dim"
    else:
        yield told(event), ""
    yield attributes_of(event), "dim"


def _subject(event: Any) -> str:
    if isinstance(event, (ToolCallStart, ToolCall)):
        return event.tool
    return getattr(event, "response_model", None) or event.model or ""


def _ended(event: LlmResponse | ToolCall | AgentEnd) -> Iterator[Said]:
    if not isinstance(event, AgentEnd):
        yield _subject(event), ""
    yield latency(number(event.duration)), ""
    if isinstance(event, LlmResponse):
        counts = ((event.input_tokens, "in"), (event.cache_read_input_tokens, "cached"), (event.output_tokens, "out"))
        yield ", ".join(f"{count:,} {word}" for count, word in counts if count), ""
    cost = None if isinstance(event, ToolCall) else number(event.cost_usd)
    if cost is not None:
        yield dollars(Spent(cost=Decimal(repr(cost)))), ""
    yield reason_of(event) or ("" if event.outcome == "ok" else str(event.outcome)), _STYLES[event.outcome or "ok"]
