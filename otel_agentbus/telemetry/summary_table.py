"""The summary as a table for people, on any terminal or none: what each agent has used of each model.

The narrower the place, the shorter the numbers; where names and numbers do not fit beside each other, the names stand
above. Like `console`, it needs `rich` and is imported on use.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

from .console import WIDEST, dollars, seconds

if TYPE_CHECKING:
    from rich.text import Text

    from .summary import SummaryData, SummaryRow

_log = logging.getLogger("otel_agentbus.summary")

TITLE = "What was used, by agent and model"
#: What stands where a producer gives no name.
NAMELESS = "-"
#: A name is shortened to no less than this for the sake of one line: an agent's, a model's.
LABELS = (12, 20)
_HEADERS = ("calls", "err", "in", "out", "cached", "cost", "unpriced", "p50", "p95")
_SHORTER = {"unpriced": "unpr"}
_ERRORS, _UNPRICED = 1, 6

#: What can be done about calls that have no price, by the reason.
_REMEDIES = (
    (("no_price_source",), "install otel-agentbus[prices] for the public prices"),
    (
        ("unknown_model", "unknown_provider", "no_price_source"),
        "put your own prices into the file that AGENTBUS_PRICES names",
    ),
    (("unknown_model", "unknown_provider", "invalid_usage"), "`otel-agentbus prices MODEL` says more"),
)


@dataclass(frozen=True)
class Layout:
    """How much room a line takes."""

    one_line: bool
    count: Callable[[int], str]
    gap: int


def print_summary(
    data: SummaryData, stream: TextIO | None = None, *, budgets: Mapping[str, float] | None = None
) -> None:
    """Print the table and what is to be said about it, in one piece; nothing where nothing has happened.

    Args:
        data: what was used.
        stream: where to; standard error if not given. Colours only if it is a terminal. Never raises.
        budgets: the share of each budget that is used, by its name.

    """
    try:
        stream = sys.stderr if stream is None else stream
        if stream is not None and not data.is_empty:
            stream.write(_encodable(_rendered(data, stream, budgets or {}), stream))
            stream.flush()
    except Exception:  # noqa: BLE001 - the end of a program is no place to fail for the sake of a table
        _log.debug("The summary could not be printed", exc_info=True)


def _rendered(data: SummaryData, stream: TextIO, budgets: Mapping[str, float]) -> str:
    from rich.console import Console

    console = Console(file=stream, highlight=False, markup=False, emoji=False, force_jupyter=False)
    unicode = console.encoding.startswith("utf")
    with console.capture() as captured:
        console.print(TITLE, style="bold")
        if data.rows:
            console.print(table(data, console.width, encoding=console.encoding), crop=False)
        for style, sentence in _sentences(data, budgets):
            console.print(sentence if unicode else sentence.encode("ascii", "replace").decode(), style=style)
    return captured.get()


def _encodable(said: str, stream: TextIO) -> str:
    try:
        encoding = getattr(stream, "encoding", None) or "utf-8"
        return said.encode(encoding, "replace").decode(encoding)
    except LookupError:
        return said.encode("ascii", "replace").decode("ascii")


# -- the table --------------------------------------------------------------------------------------------------------
def table(data: SummaryData, width: int = 80, *, encoding: str = "utf-8") -> Text:
    """The rows that have used something, those of one agent together, and the total: lines of at most `width` cells."""
    from rich.text import Text

    rows = _shown(data.rows)
    labels = [_labels(row, rows, encoding) for row in rows]
    labels = [("agent", "model"), *labels, ("total", "")]
    layout, widths, cells = _fitting([*rows, data.total], labels, min(width, WIDEST))
    styles = ["dim", *("" for _ in rows), "bold"]
    lines: list[Text] = []
    for label, texts, style in zip(labels, cells, styles, strict=True):
        numbers = Text(style=style)
        for index, (text, room) in enumerate(zip(texts, widths, strict=True)):
            marked = style != "dim" and bool(text)
            numbers.append(" " * layout.gap)
            numbers.append(text.rjust(room), _mark(index) if marked else "")
        lines += _joined(label, numbers, labels, layout, min(width, WIDEST), style, unicode=encoding.startswith("utf"))
    return Text("\n", no_wrap=True, overflow="crop").join(lines)


def _mark(index: int) -> str:
    return {_ERRORS: "red", _UNPRICED: "yellow"}.get(index, "")


def _shown(rows: Iterable[SummaryRow]) -> list[SummaryRow]:
    """Those of one agent together, the agents in the order of their first calls; none of which all was told before."""
    used = [row for row in rows if row.calls or row.input or row.output or row.cost or row.saved]
    order = {agent: at for at, agent in reversed(list(enumerate((row.agent, row.folded) for row in used)))}
    return sorted(used, key=lambda row: order[row.agent, row.folded])


def _labels(row: SummaryRow, rows: list[SummaryRow], encoding: str) -> tuple[str, str]:
    model = row.model or NAMELESS
    if sum((other.agent, other.model) == (row.agent, row.model) for other in rows) > 1:
        model = f"{row.provider or NAMELESS}/{model}"
    return _plain(row.agent or NAMELESS, encoding), _plain(model, encoding)


def _plain(name: str, encoding: str) -> str:
    """Without line breaks and control characters, and only what can be shown there."""
    clean = "".join(char if char.isprintable() else " " for char in name)
    try:
        return clean.encode(encoding, "replace").decode(encoding)
    except LookupError:
        return clean.encode("ascii", "replace").decode("ascii")


def _fitting(
    rows: list[SummaryRow], labels: list[tuple[str, str]], width: int
) -> tuple[Layout, list[int], list[tuple[str, ...]]]:
    """The first layout that fits, the widths of its columns, and the texts in them."""
    wanted = [min(room, needed) for room, needed in zip(LABELS, _needed(labels), strict=True)]
    for layout in _LAYOUTS:
        shorter = layout.count is compact
        headers = tuple(_SHORTER.get(name, name) if shorter else name for name in _HEADERS)
        cells = [headers, *(_cells(row, layout.count) for row in rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        left = width - sum(widths) - layout.gap * len(widths)
        if left >= (sum(wanted) + layout.gap if layout.one_line else 0):
            break
    return layout, widths, cells


def _needed(labels: Iterable[tuple[str, str]]) -> tuple[int, int]:
    from rich.cells import cell_len

    agents, models = zip(*labels, strict=True)
    return max(map(cell_len, agents)), max(map(cell_len, models))


def _joined(
    label: tuple[str, str],
    numbers: Text,
    labels: list[tuple[str, str]],
    layout: Layout,
    width: int,
    style: str,
    *,
    unicode: bool,
) -> Iterator[Text]:
    """The names before their numbers or, where there is no room for them, on a line above."""
    from rich.text import Text

    left = width - numbers.cell_len
    overflow = "ellipsis" if unicode else "crop"
    if layout.one_line:
        agent, model = Text(label[0], style), Text(label[1], style)
        needed = _needed(labels)
        room = max(min(needed[0], left - layout.gap - needed[1]), min(needed[0], LABELS[0]))
        agent.truncate(room, overflow="ellipsis" if unicode else "crop", pad=True)
        model.truncate(min(needed[1], left - layout.gap - room), overflow="ellipsis" if unicode else "crop", pad=True)
        yield agent.append(" " * layout.gap).append_text(model).append_text(numbers)
        return
    both = Text("  ".join(filter(None, label)), style)
    if both.cell_len > left:
        both.truncate(width, overflow="ellipsis" if unicode else "crop")
        yield both
        both = Text()
    both.truncate(left, pad=True)
    yield both.append_text(numbers)


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
    scaled = float(number)
    for sign in "kMGT":
        scaled /= 1000
        if scaled < 999.5:
            break
    return f"{scaled:.1f}{sign}" if scaled < 99.95 else f"{scaled:.0f}{sign}"


def latency(duration: float | None) -> str:
    """A latency for people; none where none is known."""
    if duration is None:
        return ""
    return f"{duration * 1000:.0f}ms" if duration < 0.0995 else seconds(duration)


#: From the most telling to what takes the least room.
_LAYOUTS = (
    Layout(one_line=True, count=full, gap=2),
    Layout(one_line=True, count=compact, gap=2),
    Layout(one_line=True, count=compact, gap=1),
    Layout(one_line=False, count=full, gap=2),
    Layout(one_line=False, count=compact, gap=2),
    Layout(one_line=False, count=compact, gap=1),
)


# -- what is said below ----------------------------------------------------------------------------------------------
def _sentences(data: SummaryData, budgets: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """What the table does not say, with the style of each line."""
    yield "dim", _besides(data) + "."
    if data.total.unpriced:
        yield "yellow", _unpriced(data.total)
    if any(row.folded for row in (*data.rows, *data.agents)):
        yield "yellow", "There were too many names for a table: those that came later are summed up in `other`."
    if budgets:
        used = ", ".join(f"{name} {share:.0%}{' (used up)' if share >= 1 else ''}" for name, share in budgets.items())
        yield "red" if max(budgets.values()) >= 1 else "dim", f"Budgets used: {used}."


def _besides(data: SummaryData) -> str:
    runs: Counter[str] = Counter()
    for agent in data.agents:
        runs.update(agent.runs)
    failed = {"error": "failed"}
    tools, tool_errors = (
        sum(numbers) for numbers in zip(*((a.tools, a.tool_errors) for a in data.agents), strict=True)
    )
    said = [
        _counted(sum(runs.values()), "run", {failed.get(key, key): n for key, n in runs.items() if key != "ok"}),
        _counted(tools, "tool call", {"failed": tool_errors}),
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
        why = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
        what = "; ".join(remedy for because, remedy in _REMEDIES if any(reason in reasons for reason in because))
        calls = sum(reasons.values())
        said.append(f"No price for {_counted(calls, 'call', {})} ({why}): {what or 'see the reasons'}.")
    if untold:
        said.append(f"No tokens were told of {_counted(untold, 'call', {})} (no_usage), so what they cost is unknown.")
    return " ".join(said)
