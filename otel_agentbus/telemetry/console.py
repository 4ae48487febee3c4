"""The outline on a terminal: a tree that grows while the program runs, and the totals; in text where there is none.

Nothing depends on colour alone: every outcome has its sign. The only module that needs `rich`; import it on use.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple, Protocol

from rich.live import Live
from rich.table import Table
from rich.text import Text

from .outline import Outline, Row, Spent

if TYPE_CHECKING:
    from rich.console import Console

#: Narrower terminals get shorter guides and fewer words; wider ones than WIDEST are not filled.
NARROW, WIDEST = 80, 110
FRAMES_PER_SECOND = 12
HEADERS = ("in", "out", "cost", "time")
_STYLES = {"ok": "green", "error": "bold red", "cancelled": "yellow", "interrupted": "yellow", None: "cyan"}


class Priced(Protocol):
    """What has cost something, as far as that is known."""

    @property
    def cost(self) -> Decimal | float | None:
        """In USD; None is unknown."""

    @property
    def unpriced(self) -> int:
        """How many calls are not in it."""


class Signs(NamedTuple):
    """The characters that a tree is drawn with."""

    ok: str = "✓"
    error: str = "✗"
    cancelled: str = "⊘"
    interrupted: str = "!"
    moment: str = "•"
    running: str = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
    branch: str = "├─ "
    last: str = "└─ "
    below: str = "│  "
    etc: str = "…"
    own: str = "━"
    other: str = "─"
    still: str = "◐"

    def narrow(self) -> Signs:
        """The same with guides that take less room."""
        return self._replace(branch=self.branch[:2], last=self.last[:2], below=self.below[:2])

    def of(self, row: Row, frame: int) -> str:
        """The sign of a row's kind and outcome."""
        if row.kind == "moment":
            return self.moment
        if row.outcome is None:
            return self.running[frame % len(self.running)]
        return str(getattr(self, row.outcome))


ASCII = Signs("+", "x", "-", "!", "*", "|/-\\", "|-- ", "`-- ", "|   ", "~", "=", "-", ">")


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the tree with the guides before it."""

    row: Row
    guides: str


class View:
    """Shows one outline on one console."""

    def __init__(self, outline: Outline, console: Console, clock: Callable[[], int] = time.time_ns) -> None:
        self.outline = outline
        self.console = console
        self._clock = clock
        signs = Signs() if console.encoding.lower().startswith("utf") else ASCII
        self._narrow = console.width < NARROW
        self._signs = signs.narrow() if self._narrow else signs
        self._gap = 1 if self._narrow else 2
        self._width = min(console.width, WIDEST)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Show the tree while the block runs, then leave it there whole; without a terminal only the latter."""
        if not self.console.is_terminal or self.console.is_dumb_terminal:
            try:
                yield
            finally:
                self.console.print(self.tree())
            return
        live = Live(
            get_renderable=lambda: self.tree(self.console.height - 2).append("\n"),  # an echoed ^C must not wrap
            console=self.console,
            refresh_per_second=FRAMES_PER_SECOND,
            transient=True,
            vertical_overflow="crop",
        )
        try:
            with live:
                yield
        finally:
            self.console.print(self.tree())

    def tree(self, height: int | None = None) -> Text:
        """The tree as it is now; of one that is too high for its place, the newest lines."""
        now_ns = self._clock()
        signs = self._signs
        lines = list(lines_of(self.outline.roots, signs))
        cells = [self._cells(line.row, now_ns) for line in lines]
        widths = [max(map(len, column)) for column in zip(HEADERS, *cells, strict=True)]
        drawn = [self._joined(self._legend(), [Text(header) for header in HEADERS], widths)]
        drawn[0].stylize("dim")
        hidden = 0 if height is None else max(0, len(lines) - height + 2)
        if hidden > 1:
            drawn.append(Text(f"{signs.etc} {hidden} lines above", "dim"))
            lines, cells = lines[hidden:], cells[hidden:]
        for line, texts in zip(lines, cells, strict=True):
            drawn.append(self._joined(self._label(line, now_ns), self._numbers(line.row, texts), widths))
        return Text("\n", no_wrap=True, overflow="crop").join(drawn)

    def _legend(self) -> Text:
        signs = self._signs
        return Text(f"{signs.ok} ok  {signs.error} error  {signs.cancelled} cancelled  {signs.moment} event")

    def _numbers(self, row: Row, texts: tuple[str, ...]) -> list[Text]:
        style = "bold" if row.kind == "agent" else ""
        numbers = [Text(text, style) for text in texts]
        numbers[len(HEADERS) - 1].style = "cyan" if row.is_open else ""
        return numbers

    def _joined(self, label: Text, numbers: list[Text], widths: list[int]) -> Text:
        """A line with its numbers in their columns at the right; the label has what these leave, however little."""
        tail = Text()
        for number, width in zip(numbers, widths, strict=True):
            if number or tail:
                tail.append(" " * (self._gap + width - len(number)))
                tail.append_text(number)
        left = self._width - len(tail)
        if left < NARROW // 5:
            tail, left = Text(), self._width
        label.truncate(left, overflow="ellipsis" if self._signs.ok == Signs().ok else "crop", pad=bool(tail))
        return label.append_text(tail)

    def _label(self, line: Line, now_ns: int) -> Text:
        row = line.row
        style = "blue" if row.kind == "moment" else _STYLES[row.outcome]
        text = Text()
        text.append(line.guides, "dim")
        text.append(self._sign(row, now_ns) + " ", style)
        if row.kind in ("agent", "tool"):
            text.append(f"{row.kind} ", "dim")
        text.append(self._plain(row.name), "bold" if row.kind == "agent" else "")
        if reason := self._reason(row):
            text.append("  " + self._plain(reason), style)
        if row.detail:
            text.append("  " + self._plain(row.detail), "dim")
        return text

    def _sign(self, row: Row, now_ns: int) -> str:
        return self._signs.of(row, now_ns * FRAMES_PER_SECOND // 10**9)

    def _reason(self, row: Row) -> str:
        return row.reason

    def _cells(self, row: Row, now_ns: int) -> tuple[str, ...]:
        if row.kind == "moment":
            return "", "", "", ""
        took = seconds(row.seconds(now_ns))
        if row.kind == "tool":  # what it spends, the agent inside it says
            return "", "", "", took
        return tokens(row.spent.input), tokens(row.spent.output), dollars(row.spent), took

    def totals(self) -> Table:
        """What each agent has spent with each model, and the sum."""
        totals = self.outline.totals
        table = Table(box=None, pad_edge=False, padding=(0, self._gap, 0, 0), show_footer=True)
        table.header_style, table.footer_style = "dim", "bold"
        names = ("agent/model",) if self._narrow else ("agent", "model")
        for name in names:
            table.add_column(name, overflow="ellipsis", footer="total" if name == names[0] else "")
        columns = ("calls", "err", "in", "cache" if self._narrow else "cached", "out", "cost", "time")
        for name, sum_ in zip(columns, _spent(totals.llm), strict=True):
            table.add_column(name, justify="right", no_wrap=True, footer=sum_)
        for (agent, model), spent in totals.models.items():
            both = self._plain(agent), self._plain(model)
            label = ("\n".join(both),) if self._narrow else both
            table.add_row(*map(Text, label), *_spent(spent))
        return table

    def sum(self) -> str:
        """What the table of models does not say, in a line."""
        totals = self.outline.totals
        roots = [root for root in self.outline.roots if root.kind != "moment"]
        now_ns = self._clock()
        began = min((root.started_ns for root in roots), default=now_ns)
        ended = max((root.started_ns + root.seconds(now_ns) * 1e9 for root in roots), default=now_ns)
        said = [_counted(totals.runs, "run"), _counted(totals.tools, "tool call")]
        if totals.tokens_saved:
            said.append(f"{totals.tokens_saved:,} tokens saved")
        return f"In {seconds((ended - began) / 1e9)}: {', '.join(said)}"

    def _plain(self, text: str) -> str:
        """Without line breaks and control characters, and only what this terminal can show."""
        encoding = self.console.encoding
        clean = "".join(char if char.isprintable() else " " for char in text)
        return clean.encode(encoding, "replace").decode(encoding)


def lines_of(rows: list[Row], signs: Signs, below: str = "", *, top: bool = True) -> Iterator[Line]:
    """The rows with everything below them, in the order in which they are drawn."""
    for row in rows:
        is_last = row is rows[-1]
        yield Line(row, "" if top else below + (signs.last if is_last else signs.branch))
        further = "" if top else below + (" " * len(signs.below) if is_last else signs.below)
        yield from lines_of(row.children, signs, further, top=False)


def _spent(spent: Spent) -> tuple[str, ...]:
    counts = (tokens(count) for count in (spent.calls, spent.errors, spent.input, spent.cached, spent.output))
    return (*counts, dollars(spent), seconds(spent.seconds))


def _counted(spent: Spent, noun: str) -> str:
    bad = ((spent.errors, "failed"), (spent.cancelled, "cancelled"))
    said = ", ".join(f"{count} {word}" for count, word in bad if count)
    return f"{spent.calls} {noun}{'' if spent.calls == 1 else 's'}{f' ({said})' if said else ''}"


def tokens(count: int) -> str:
    """A count for people; none is shown as nothing."""
    return f"{count:,}" if count else ""


def dollars(spent: Priced) -> str:
    """A cost for people. What is unknown of it is a question mark, never 0."""
    unknown = "?" if spent.unpriced else ""
    if spent.cost is None:
        return unknown
    if 0 < spent.cost < Decimal("0.00005"):
        return f"<$.0001{unknown}"
    return (f"${spent.cost:.4f}" if spent.cost < 1 else f"${spent.cost:,.2f}") + unknown


def seconds(duration: float) -> str:
    """A duration for people."""
    if duration < 59.95:
        return f"{duration:.2f}s" if duration < 9.995 else f"{duration:.1f}s"
    minutes, rest = divmod(round(duration), 60)
    return f"{minutes // 60}h{minutes % 60:02}m" if minutes >= 60 else f"{minutes}m{rest:02}s"
