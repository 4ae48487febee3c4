"""The summary as a table for people, on any terminal or none: what each agent has used of each model.

Like `console`, it needs `rich` and is imported on use.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.text import Text

from .columns import Column, Count, NumberTable, compact, encodable, latency, printable
from .console import dollars

if TYPE_CHECKING:
    from .summary import SummaryData, SummaryRow

_log = logging.getLogger("otel_agentbus.summary")

TITLE = "What was used, by agent and model"
#: What stands where a producer gives no name.
NAMELESS = "-"
_COLUMNS = (
    Column("calls"),
    Column("err", mark="red"),
    Column("in", spare=1),
    Column("out", spare=1),
    Column("cached", spare=2),
    Column("cost"),
    Column("unpriced", "unpr", mark="yellow", spare=3),
    Column("p50", spare=3),
    Column("p95"),
)

#: How much of a budget more is used than this does not matter: the numbers need not have an end.
_MOST_SHOWN = 9.99

#: What can be done about calls that have no price, by the reason.
_REMEDIES = (
    (("no_price_source",), "install otel-agentbus[prices] for the public list"),
    (("unknown_model", "unknown_provider"), "`otel-agentbus prices MODEL` says what is known"),
    (("unknown_model", "unknown_provider", "no_price_source"), "AGENTBUS_PRICES may name a file of your own prices"),
    (("invalid_usage",), "their token counts or costs cannot be true"),
)


def print_summary(
    data: SummaryData,
    stream: TextIO | None = None,
    *,
    budgets: Mapping[str, float] | None = None,
    dropped: int = 0,
) -> None:
    """Print the table and what is to be said about it, in one piece; nothing where nothing has happened.

    Args:
        data: what was used.
        stream: where to; standard error if not given. Colours only if it is a terminal. Never raises.
        budgets: the share of each budget that is used, by its name.
        dropped: how many events were lost before they could be counted.

    """
    try:
        stream = sys.stderr if stream is None else stream
        if stream is not None and (dropped or not data.is_empty):
            _write(stream, _rendered(data, stream, budgets or {}, dropped))
    except Exception:  # noqa: BLE001 - the end of a program is no place to fail for the sake of a table
        _log.debug("The summary could not be printed", exc_info=True)


def _write(stream: TextIO, text: str) -> None:
    """Past the stream's buffer, if it has a file: what stays in there Python fails to write again at its exit."""
    try:
        file = stream.fileno()
    except (OSError, AttributeError):  # one in memory, or whatever stands in for one
        stream.write(text)
        stream.flush()
        return
    stream.flush()
    rest = text.encode(stream.encoding or "utf-8", "replace")
    while rest:
        rest = rest[os.write(file, rest) :]


def _rendered(data: SummaryData, stream: TextIO, budgets: Mapping[str, float], dropped: int) -> str:
    encoding = (getattr(stream, "encoding", None) or "utf-8").lower()
    console = Console(  # not on the stream itself: where that is a broken pipe, rich ends the program
        file=io.StringIO(),
        force_terminal=True if stream.isatty() else None,
        force_jupyter=False,
        highlight=False,
        markup=False,
        emoji=False,
    )
    with console.capture() as captured:
        console.print(TITLE, style="bold")
        if data.rows:
            console.print(table(data, console.width, encoding=encoding), no_wrap=True, overflow="crop")
        for style, sentence in sentences(data, budgets, dropped):
            lines = textwrap.fill(encodable(printable(sentence), encoding), console.width, break_on_hyphens=False)
            console.print(lines, style=style, soft_wrap=True)
    return encodable(captured.get(), encoding)


# -- the table --------------------------------------------------------------------------------------------------------
def table(data: SummaryData, width: int = 80, *, encoding: str = "utf-8") -> Text:
    """The rows that have used something, those of one agent together, and the total: lines of at most `width` cells."""
    rows = _shown(data.rows)
    models = Counter((row.agent, row.model) for row in rows)
    labels = [(row.agent or NAMELESS, _model(row, models[row.agent, row.model])) for row in rows]
    return _drawn(("agent", "model"), labels, [*rows, data.total], width, encoding)


def narrowed(rows: Sequence[SummaryRow], total: SummaryRow, by: str, width: int, *, encoding: str = "utf-8") -> Text:
    """The same by agent or model only, of rows that are summed up so."""
    models = Counter(row.model for row in rows)
    names = [(row.agent or NAMELESS) if by == "agent" else _model(row, models[row.model]) for row in rows]
    return _drawn((by, ""), [(name, "") for name in names], [*rows, total], width, encoding)


def _drawn(
    titles: tuple[str, str], labels: list[tuple[str, str]], rows: list[SummaryRow], width: int, encoding: str
) -> Text:
    def cells(count: Count) -> list[tuple[str, ...]]:
        return [_cells(row, count) for row in rows]

    return NumberTable(titles, labels, _COLUMNS, cells, width, encoding).drawn()


def _model(row: SummaryRow, number: int) -> str:
    model = row.model or NAMELESS
    return model if number == 1 else f"{row.provider or NAMELESS}/{model}"  # at several providers


def _shown(rows: Iterable[SummaryRow]) -> list[SummaryRow]:
    """Those of one agent together, the agents in the order of their first calls; none of which all was told before."""
    used = [row for row in rows if has_used(row)]
    order: dict[tuple[bool, str | None], int] = {}
    for row in used:
        order.setdefault((row.folded, row.agent), len(order))
    return sorted(used, key=lambda row: order[row.folded, row.agent])


def has_used(row: SummaryRow) -> bool:
    """Whether anything is in it but what was told before."""
    return bool(row.calls or row.input or row.output or row.cost or row.saved)


def _cells(row: SummaryRow, count: Count) -> tuple[str, ...]:
    return (
        count(row.calls),
        *(count(number) if number else "" for number in (row.errors, row.input, row.output, row.cached)),
        dollars(row),
        count(row.unpriced) if row.unpriced else "",
        latency(row.p50),
        latency(row.p95),
    )


# -- what is said below ----------------------------------------------------------------------------------------------
def sentences(data: SummaryData, budgets: Mapping[str, float], dropped: int) -> Iterator[tuple[str, str]]:
    """What the table does not say, with the style of each line."""
    yield "dim", _besides(data) + "."
    if dropped:
        events, they = ("event was", "it was") if dropped == 1 else ("events were", "they were")
        yield "red", f"{dropped:,} {events} dropped before {they} counted: these sums are too low."
    if data.total.unpriced:
        yield "yellow", _unpriced(data.total)
    if any(row.folded for row in data.rows) or any(agent.folded for agent in data.agents):
        yield "yellow", "There were too many names for a table: those that came later are summed up in `other`."
    if budgets:
        used = ", ".join(f"{name} {_share(share)}" for name, share in budgets.items())
        yield "red" if max(budgets.values()) >= 1 else "dim", f"Budgets used: {used}."


def _share(used: float) -> str:
    shown = f"{used:.0%}" if used < _MOST_SHOWN else f">{_MOST_SHOWN:.0%}"
    return f"{shown} (used up)" if used >= 1 else shown


def _besides(data: SummaryData) -> str:
    runs: Counter[str] = Counter()
    for agent in data.agents:
        runs.update(agent.runs)
    bad = {"failed" if key == "error" else key: number for key, number in runs.items() if key != "ok"}
    tool_errors = sum(agent.tool_errors for agent in data.agents)
    said = [
        _counted(sum(runs.values()), "run", bad),
        _counted(sum(agent.tools for agent in data.agents), "tool call", {"failed": tool_errors}),
    ]
    total = data.total
    if total.saved:
        said.append(f"${total.saved:.4f} saved by cached answers")
    if total.duplicates:
        said.append(f"{total.duplicates:,} told twice and counted once")
    return ", ".join(said)


def _counted(number: int, noun: str, bad: Mapping[str, int]) -> str:
    said = ", ".join(f"{count:,} {word}" for word, count in bad.items() if count)
    return f"{number:,} {noun}{'' if number == 1 else 's'}{f' ({said})' if said else ''}"


def _unpriced(total: SummaryRow) -> str:
    """Why the cost of some calls is not known, and what to do about it. Those that told no tokens stand apart."""
    reasons = dict(sorted(total.reasons.items(), key=lambda item: -item[1]))
    untold = reasons.pop("no_usage", 0)
    said = []
    if reasons:
        why = ", ".join(f"{count:,} {reason}" if len(reasons) > 1 else reason for reason, count in reasons.items())
        what = "; ".join(remedy for because, remedy in _REMEDIES if any(reason in reasons for reason in because))
        calls = sum(reasons.values())
        said.append(f"No price for {_counted(calls, 'call', {})} ({why}): {what or 'see the reasons'}.")
    if untold:
        said.append(f"No tokens were told of {_counted(untold, 'call', {})} (no_usage), so what they cost is unknown.")
    return " ".join(said)


__all__ = ["NAMELESS", "TITLE", "compact", "has_used", "latency", "narrowed", "print_summary", "sentences", "table"]
