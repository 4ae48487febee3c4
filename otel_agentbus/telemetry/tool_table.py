"""The calls of tools as a table for people, as wide as there is room. It needs `rich` and is imported on use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .columns import Column, Count, NumberTable, latency
from .summary_table import NAMELESS

if TYPE_CHECKING:
    from rich.text import Text

    from .tool_summary import ToolRow

_COLUMNS = (
    Column("calls"),
    Column("err", mark="red"),
    Column("cancelled", "canc", mark="yellow", spare=3),
    Column("p50", spare=3),
    Column("p95"),
)


def tool_table(
    rows: Sequence[ToolRow], total: ToolRow, width: int = 80, *, by_agent: bool = True, encoding: str = "utf-8"
) -> Text:
    """The rows, by agent and tool or by tool alone, and their total: lines of at most `width` cells."""
    tools = [row.tool or NAMELESS for row in rows]
    if by_agent:
        order = {agent: number for number, agent in enumerate(dict.fromkeys(row.agent for row in rows))}
        rows = sorted(rows, key=lambda row: order[row.agent])
        labels = [(row.agent or NAMELESS, row.tool or NAMELESS) for row in rows]
    else:
        labels = [(tool, "") for tool in tools]

    def cells(count: Count) -> list[tuple[str, ...]]:
        return [_cells(row, count) for row in (*rows, total)]

    return NumberTable(
        ("agent", "tool") if by_agent else ("tool", ""), labels, _COLUMNS, cells, width, encoding
    ).drawn()


def _cells(row: ToolRow, count: Count) -> tuple[str, ...]:
    bad = (count(number) if number else "" for number in (row.errors, row.cancelled))
    return (count(row.calls), *bad, latency(row.p50), latency(row.p95))
