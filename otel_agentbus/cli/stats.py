"""`otel-agentbus stats`: what a journal's agents, models and tools did, summed up as `bus.summary()` does."""

from __future__ import annotations

import csv
import io
import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from otel_agentbus.cli import journals
from otel_agentbus.cli.output import Output, quietly_ended

if TYPE_CHECKING:
    from collections.abc import Iterable

    from otel_agentbus.events import Event
    from otel_agentbus.telemetry.ledger import Prices
    from otel_agentbus.telemetry.summary import SummaryRow
    from otel_agentbus.telemetry.tool_summary import ToolRow

#: The columns of `--csv`, and the keys of a row of `--json`. An empty field or null: not known, or not of this kind.
KEYS = (
    *("kind", "agent", "provider", "model", "tool", "calls", "errors", "cancelled"),
    *("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_write_input_tokens"),
    *("reasoning_output_tokens", "cost_usd", "unpriced_calls", "saved_usd", "duplicates", "p50_seconds", "p95_seconds"),
    "is_rest",
)


class By(StrEnum):
    """What the rows of the table are."""

    agent = "agent"
    model = "model"
    tool = "tool"


def stats(
    journal: Annotated[Path | None, typer.Argument(metavar="JOURNAL", help=journals.JOURNAL)] = None,
    since: Annotated[
        str | None, typer.Option(help="What ended from then on: 90s, 1h or 7d ago, or 2026-11-21 (local time).")
    ] = None,
    by: Annotated[By | None, typer.Option(help="Sum up by one of these; else by agent and model, and tool.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print exact numbers as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print exact numbers as CSV.")] = False,
) -> None:
    """Sum up a journal by agent, model and tool: calls, errors, latencies, tokens and cost, each call counted once.

    A cost that is not known is said to be unknown, and is never 0. Exit code 2: there is no such journal.
    """
    if as_json and as_csv:
        raise typer.BadParameter("choose one of --json and --csv", param_hint="--csv")
    since_ns = journals.moment_of(since)
    directory, chosen = journals.opened(journal)
    output = Output()
    with quietly_ended():
        found = Stats(journals.prices_of(chosen))
        found.hear(output.reading(journals.events_of(directory, since_ns=since_ns)))
        if as_json:
            output.write(json.dumps(found.as_json(by), indent=2) + "\n")
        elif as_csv:
            output.write(found.as_csv(by))
        else:
            show(found, by, output)


class Stats:
    """The sums of events, as `bus.summary()` makes them, and those of the tools; bounded, however many events."""

    def __init__(self, prices: Prices | None = None) -> None:
        from otel_agentbus.telemetry.ledger import Ledger
        from otel_agentbus.telemetry.summary import Summary
        from otel_agentbus.telemetry.tool_summary import ToolSummary

        self.events = 0
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.summary = Summary()
        self.tools = ToolSummary()
        self._ledger = Ledger(prices)

    def hear(self, events: Iterable[Event]) -> None:
        """Add what they say."""
        for event in events:
            self.events += 1
            if event.time_ns is not None:
                self.first_ns = min(event.time_ns, self.first_ns or event.time_ns)
                self.last_ns = max(event.time_ns, self.last_ns or event.time_ns)
            self.summary(self._ledger.enter(event))
            self.tools(event)

    def rows(self, by: By | None) -> list[dict[str, Any]]:
        """The rows with exact numbers."""
        if by is By.tool:
            return [_tool(row) for row in self.tools.read_by_tool()]
        if by is not None:
            return [_model(row, by.value) for row in self.grouped(by)]
        models = [_model(row, "model") for row in self.summary.read().rows]
        return [*models, *(_tool(row) for row in self.tools.read())]

    def grouped(self, by: By) -> tuple[SummaryRow, ...]:
        """The rows of the model calls by one name alone."""
        return self.summary.read_by("agent" if by is By.agent else "model")

    def as_json(self, by: By | None) -> dict[str, Any]:
        """All of it for machines: times as ISO 8601, `total` of the model calls, and why the unpriced are."""
        data = self.summary.read()
        return {
            "events": self.events,
            "first": _time(self.first_ns),
            "last": _time(self.last_ns),
            "rows": self.rows(by),
            "total": _model(data.total, "total"),
            "tools_total": _tool(self.tools.total),
            "unpriced_reasons": dict(data.total.reasons),
            "runs": [
                {"agent": agent.agent, "outcomes": dict(agent.runs), "is_rest": agent.folded}
                for agent in data.agents
                if agent.runs
            ],
        }

    def as_csv(self, by: By | None) -> str:
        """The rows for spreadsheets."""
        file = io.StringIO()
        writer = csv.DictWriter(file, KEYS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "is_rest": str(row["is_rest"]).lower()} for row in self.rows(by))
        return file.getvalue()


def _model(row: SummaryRow, kind: str) -> dict[str, Any]:
    return dict.fromkeys(KEYS) | {
        "kind": kind,
        "agent": row.agent,
        "provider": row.provider,
        "model": row.model,
        "calls": row.calls,
        "errors": row.errors,
        "cancelled": row.cancelled,
        "input_tokens": row.input,
        "output_tokens": row.output,
        "cache_read_input_tokens": row.cached,
        "cache_write_input_tokens": row.cache_write,
        "reasoning_output_tokens": row.reasoning,
        "cost_usd": row.cost,
        "unpriced_calls": row.unpriced,
        "saved_usd": row.saved,
        "duplicates": row.duplicates,
        "p50_seconds": row.p50,
        "p95_seconds": row.p95,
        "is_rest": row.folded,
    }


def _tool(row: ToolRow) -> dict[str, Any]:
    return dict.fromkeys(KEYS) | {
        "kind": "tool",
        "agent": row.agent,
        "tool": row.tool,
        "calls": row.calls,
        "errors": row.errors,
        "cancelled": row.cancelled,
        "p50_seconds": row.p50,
        "p95_seconds": row.p95,
        "is_rest": row.folded,
    }


def _time(time_ns: int | None) -> str | None:
    from otel_agentbus.cli.lines import local

    moment = local(time_ns)
    return None if moment is None else moment.isoformat()


def show(found: Stats, by: By | None, output: Output) -> None:
    """Print the tables that are asked for, and what they do not say."""
    from otel_agentbus.telemetry.summary_table import TITLE, has_used, narrowed, sentences, table
    from otel_agentbus.telemetry.tool_table import tool_table

    data, width, encoding = found.summary.read(), output.width, output.encoding
    output.sentence(_span(found), "dim")
    if by in (By.agent, By.model):
        if rows := [row for row in found.grouped(by) if has_used(row)]:
            _head(f"What was used, by {by.value}", output)
            output.block(narrowed(rows, data.total, by.value, width, encoding=encoding))
    elif by is None and data.rows:
        _head(TITLE, output)
        output.block(table(data, width, encoding=encoding))
    tools = found.tools.read() if by is None else found.tools.read_by_tool() if by is By.tool else ()
    if tools:
        _head("Which tools were called" + (", by agent and tool" if by is None else ""), output)
        output.block(tool_table(tools, found.tools.total, width, by_agent=by is None, encoding=encoding))
    output.block("")
    for style, sentence in sentences(data, {}, 0):
        output.sentence(sentence, style)


def _head(title: str, output: Output) -> None:
    output.block("")
    output.sentence(title, "bold")


def _span(found: Stats) -> str:
    from otel_agentbus.cli.lines import local

    first, last = local(found.first_ns), local(found.last_ns)
    events = f"{found.events:,} event{'' if found.events == 1 else 's'}"
    if first is None or last is None:
        return events
    until = f"{last:%H:%M:%S}" if first.date() == last.date() else f"{last:%Y-%m-%d %H:%M:%S}"
    return f"{events}, {first:%Y-%m-%d %H:%M:%S} to {until}"
