"""The summary as a table for people, on any terminal or none: what each agent has used of each model.

The narrower the place, the shorter the numbers; where names and numbers do not fit beside each other, the names stand
above. Like `console`, it needs `rich` and is imported on use.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from .console import dollars, seconds

if TYPE_CHECKING:
    from .summary import SummaryData, SummaryRow

_log = logging.getLogger("otel_agentbus.summary")

TITLE = "What was used, by agent and model"
#: What stands where a producer gives no name.
NAMELESS = "-"
#: A name is shortened to no less than this for the sake of its line: an agent's, a model's.
LABELS = (12, 20)
#: How far a model's name stands below its agent's.
INDENT = 2
_HEADERS = ("calls", "err", "in", "out", "cached", "cost", "unpriced", "p50", "p95")
_SHORTER = {"unpriced": "unpr"}
_MARKS = ("", "red", "", "", "", "", "yellow", "", "")

#: How much of a budget more is used than this does not matter: the numbers need not have an end.
_MOST_SHOWN = 9.99

#: What can be done about calls that have no price, by the reason.
_REMEDIES = (
    (("no_price_source",), "install otel-agentbus[prices] for the public list"),
    (("unknown_model", "unknown_provider"), "`otel-agentbus prices MODEL` says what is known"),
    (("unknown_model", "unknown_provider", "no_price_source"), "AGENTBUS_PRICES may name a file of your own prices"),
    (("invalid_usage",), "their token counts or costs cannot be true"),
)


@dataclass(frozen=True)
class Layout:
    """How much room a line takes: where the names of agents and models stand, and how the numbers look."""

    #: Both beside the numbers; the agent above its models; or both above, where they are too long.
    names: Literal["beside", "grouped", "above"]
    count: Callable[[int], str]
    gap: int


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
        for style, sentence in _sentences(data, budgets, dropped):
            lines = textwrap.fill(_encodable(_printable(sentence), encoding), console.width, break_on_hyphens=False)
            console.print(lines, style=style, soft_wrap=True)
    return _encodable(captured.get(), encoding)


def _encodable(said: str, encoding: str) -> str:
    try:
        return said.encode(encoding, "replace").decode(encoding)
    except LookupError:
        return said.encode("ascii", "replace").decode("ascii")


def _printable(said: str) -> str:
    """Without line breaks and control characters, of which a terminal would make something else than text."""
    return "".join(char if char.isprintable() else " " for char in said)


# -- the table --------------------------------------------------------------------------------------------------------
def table(data: SummaryData, width: int = 80, *, encoding: str = "utf-8") -> Text:
    """The rows that have used something, those of one agent together, and the total: lines of at most `width` cells."""
    return _Table(data, width, encoding).drawn()


class _Table:
    """One table, with the layout in which it fits its width."""

    def __init__(self, data: SummaryData, width: int, encoding: str) -> None:
        self._rows = _shown(data.rows)
        self._encoding = encoding
        self._overflow: Literal["ellipsis", "crop"] = "ellipsis" if encoding.startswith("utf") else "crop"
        self._width = width
        self._models = Counter((row.agent, row.model) for row in self._rows)
        self._labels = [self._label(row) for row in self._rows]
        columns = zip(("agent", "model"), ("total", ""), *self._labels, strict=True)
        self._needed = [max(map(cell_len, column)) for column in columns]
        self._fit([*self._rows, data.total])

    def drawn(self) -> Text:
        """The lines of the table as one text."""
        first, *cells, last = self._cells
        header = ("agent", "model") if self._layout.names == "beside" else ("agent/model", "")
        lines = self._line(*header, self._numbers(first, "dim"), "dim")
        before: str | None = None
        for (agent, model), texts in zip(self._labels, cells, strict=True):
            lines += self._line(agent, model, self._numbers(texts), "", is_new=agent != before)
            before = agent
        lines += self._line("total", "", self._numbers(last, "bold"), "bold")
        for line in lines:
            line.rstrip()
        return Text("\n", no_wrap=True, overflow="crop").join(lines)

    def _label(self, row: SummaryRow) -> tuple[str, str]:
        model = row.model or NAMELESS
        if self._models[row.agent, row.model] > 1:  # at several providers
            model = f"{row.provider or NAMELESS}/{model}"
        return self._plain(row.agent or NAMELESS), self._plain(model)

    def _plain(self, name: str) -> str:
        return _encodable(_printable(name), self._encoding)

    def _fit(self, rows: list[SummaryRow]) -> None:
        """Find the first layout that fits, the widths of its columns, and the texts in them."""
        agents, models = map(min, LABELS, self._needed)
        for layout in _LAYOUTS:
            headers = tuple(_SHORTER.get(name, name) if layout.count is compact else name for name in _HEADERS)
            cells = [headers, *(_cells(row, layout.count) for row in rows)]
            widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
            left = self._width - sum(widths) - layout.gap * len(widths)
            needed = {"beside": agents + layout.gap + models, "grouped": max(agents, INDENT + models), "above": 0}
            if left >= needed[layout.names]:
                break
        self._layout, self._cells, self._widths = layout, cells, widths
        self._left = max(left, 0)

    def _numbers(self, texts: tuple[str, ...], style: str = "") -> Text:
        numbers = Text(style=style)
        for text, room, mark in zip(texts, self._widths, _MARKS, strict=True):
            numbers.append(" " * self._layout.gap)
            numbers.append(text.rjust(room), "" if style == "dim" else mark)
        return numbers

    def _line(self, agent: str, model: str, numbers: Text, style: str, *, is_new: bool = True) -> list[Text]:
        """The names before their numbers or, where there is no room for them, on lines above."""
        gap, (longest_agent, longest_model) = self._layout.gap, self._needed
        if self._layout.names == "beside":
            room = max(min(longest_agent, self._left - gap - longest_model), min(longest_agent, LABELS[0]))
            names = self._cut(agent, room, style).append(" " * gap)
            names.append_text(self._cut(model, min(longest_model, self._left - gap - room), style))
            return [names.append_text(numbers)]
        if not model:
            above, name = [], agent
        else:
            above, name = [self._cut(agent, self._width, style)] if is_new else [], " " * INDENT + model
        if self._layout.names == "above" and cell_len(name) > self._left:
            above.append(self._cut(name, self._width, style))
            name = ""
        room = min(self._left, max(longest_agent, INDENT + longest_model))
        return [*above, self._cut(name, room, style).append_text(numbers)]

    def _cut(self, name: str, room: int, style: str) -> Text:
        text = Text(name, style)
        text.truncate(room, overflow=self._overflow, pad=True)
        return text


def _shown(rows: Iterable[SummaryRow]) -> list[SummaryRow]:
    """Those of one agent together, the agents in the order of their first calls; none of which all was told before."""
    used = [row for row in rows if row.calls or row.input or row.output or row.cost or row.saved]
    order: dict[tuple[bool, str | None], int] = {}
    for row in used:
        order.setdefault((row.folded, row.agent), len(order))
    return sorted(used, key=lambda row: order[row.folded, row.agent])


def _cells(row: SummaryRow, count: Callable[[int], str]) -> tuple[str, ...]:
    return (
        count(row.calls),
        *(count(number) if number else "" for number in (row.errors, row.input, row.output, row.cached)),
        dollars(row),
        count(row.unpriced) if row.unpriced else "",
        latency(row.p50),
        latency(row.p95),
    )


def full(number: int) -> str:
    """A count to the last unit."""
    return f"{number:,}"


def compact(number: int) -> str:
    """A count in at most five characters."""
    if number < 10_000:
        return f"{number:,}"
    scaled, signs = number / 1000, "kMGTP"
    while scaled >= 999.5 and len(signs) > 1:
        scaled, signs = scaled / 1000, signs[1:]
    return f"{scaled:.{2 if scaled < 9.995 else 1 if scaled < 99.95 else 0}f}{signs[0]}"


def latency(duration: float | None) -> str:
    """A latency for people; none where none is known."""
    if duration is None:
        return ""
    return f"{duration * 1000:.0f}ms" if duration < 0.0995 else seconds(duration)


#: From the most telling to what takes the least room.
_LAYOUTS = (
    Layout("beside", full, 2),
    Layout("beside", full, 1),
    Layout("beside", compact, 2),
    Layout("beside", compact, 1),
    Layout("grouped", full, 2),
    Layout("grouped", full, 1),
    Layout("grouped", compact, 2),
    Layout("grouped", compact, 1),
    Layout("above", full, 2),
    Layout("above", full, 1),
    Layout("above", compact, 2),
    Layout("above", compact, 1),
)


# -- what is said below ----------------------------------------------------------------------------------------------
def _sentences(data: SummaryData, budgets: Mapping[str, float], dropped: int) -> Iterator[tuple[str, str]]:
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
