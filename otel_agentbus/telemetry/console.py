"""The outline on a terminal: a tree that grows while the program runs, and the totals; in text where there is none.

Nothing depends on colour alone: every outcome has its sign. The only module that needs `rich`; import it on use.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, NamedTuple

from rich.live import Live
from rich.table import Table
from rich.text import Text

from .outline import Outline, Row, Spent

if TYPE_CHECKING:
    from rich.console import Console

#: Narrower terminals get shorter guides and fewer words; wider ones than WIDEST are not filled.
NARROW, WIDEST = 80, 110
FRAMES_PER_SECOND = 12
_STYLES = {"ok": "green", "error": "bold red", "cancelled": "yellow", "interrupted": "yellow", None: "cyan"}


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


ASCII = Signs("+", "x", "-", "!", "*", "|/-\\", "|-- ", "`-- ", "|   ", "~")


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the tree with the guides before it."""

    row: Row
    guides: str


class View:
    """Shows one outline on one console."""

    def __init__(self, outline: Outline, console: Console) -> None:
        self.outline = outline
        self.console = console
        signs = Signs() if console.encoding.lower().startswith("utf") else ASCII
        self._narrow = console.width < NARROW
        self._signs = signs.narrow() if self._narrow else signs
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
            get_renderable=lambda: self.tree(self.console.height - 1),
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

    def tree(self, height: int | None = None) -> Table:
        """The tree as it is now; of one that is too high, the newest lines."""
        now_ns = time.time_ns()
        signs = self._signs
        table = Table.grid(padding=(0, 0, 0, 1 if self._narrow else 2))
        table.width = self._width
        table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
        for _ in range(4):
            table.add_column(justify="right", no_wrap=True)
        legend = f"{signs.ok} ok  {signs.error} error  {signs.cancelled} cancelled  {signs.moment} event"
        table.add_row(legend, "in" if self._narrow else "tokens in", "out", "cost", "time", style="dim")
        lines = list(_lines(self.outline.roots, signs))
        if height is not None and len(lines) > height - 1:
            hidden = len(lines) - height + 2
            lines = lines[hidden:]
            table.add_row(Text(f"{signs.etc} {hidden} lines above", "dim"))
        for line in lines:
            table.add_row(self._label(line, now_ns), *self._numbers(line.row, now_ns))
        return table

    def _label(self, line: Line, now_ns: int) -> Text:
        row = line.row
        style = _STYLES[row.outcome]
        text = Text(line.guides, "dim")
        text.append(self._signs.of(row, now_ns // (10**9 // FRAMES_PER_SECOND)), "blue" if row.kind == "moment" else style)
        text.append(" ")
        if row.kind in ("agent", "tool"):
            text.append(f"{row.kind} ", "dim")
        text.append(self._plain(row.name), "bold" if row.kind == "agent" else "")
        if row.reason:
            text.append("  " + self._plain(row.reason), style)
        if row.detail:
            text.append("  " + self._plain(row.detail), "dim")
        return text

    def _numbers(self, row: Row, now_ns: int) -> tuple[Text, ...]:
        if row.kind == "moment":
            return ()
        took = Text(seconds(row.seconds(now_ns)), "cyan" if row.is_open else "")
        if row.kind == "tool" or not row.spent.calls:
            return Text(), Text(), Text(), took
        style = "bold" if row.kind == "agent" else ""
        said = (tokens(row.spent.input), tokens(row.spent.output), dollars(row.spent.cost))
        return (*(Text(number, style) for number in said), took)

    def totals(self) -> Table:
        """What each agent has spent with each model, and the sum."""
        totals = self.outline.totals
        table = Table(box=None, pad_edge=False, padding=(0, 1 if self._narrow else 2, 0, 0), show_footer=True)
        table.header_style, table.footer_style = "dim", "bold"
        names = ("model",) if self._narrow else ("agent", "model")
        for name in names:
            table.add_column(name, no_wrap=True, overflow="ellipsis", footer="total" if name == names[0] else "")
        columns = ("calls", "err" if self._narrow else "errors", "in", "cache" if self._narrow else "cached", "out")
        for name, sum_ in zip((*columns, "cost", "time"), _spent(totals.llm), strict=True):
            table.add_column(name, justify="right", no_wrap=True, footer=sum_)
        for (agent, model), spent in totals.models.items():
            both = self._plain(agent), self._plain(model)
            label = ("\n".join(both),) if self._narrow else both
            table.add_row(*map(Text, label), *_spent(spent))
        return table

    def sum(self) -> str:
        """What the table of models does not have, in a line."""
        totals = self.outline.totals
        said = [_counted(totals.runs, "agent run"), _counted(totals.tools, "tool call")]
        if totals.tokens_saved:
            said.append(f"{totals.tokens_saved:,} tokens saved by a cache")
        roots = self.outline.roots
        if roots:
            now_ns = time.time_ns()
            ends = max(root.started_ns + root.seconds(now_ns) * 1e9 for root in roots)
            said.append(f"{seconds((ends - min(root.started_ns for root in roots)) / 1e9)} in all")
        return ", ".join(said)

    def _plain(self, text: str) -> str:
        """Without line breaks and control characters, and only what this terminal can show."""
        encoding = self.console.encoding
        clean = "".join(char if char.isprintable() else " " for char in text)
        return clean.encode(encoding, "replace").decode(encoding)


def _lines(rows: list[Row], signs: Signs, below: str = "", *, top: bool = True) -> Iterator[Line]:
    for row in list(rows):
        is_last = row is rows[-1]
        yield Line(row, "" if top else below + (signs.last if is_last else signs.branch))
        further = "" if top else below + (" " * len(signs.below) if is_last else signs.below)
        yield from _lines(row.children, signs, further, top=False)


def _spent(spent: Spent) -> tuple[str, ...]:
    counts = (str(spent.calls), str(spent.errors or ""), tokens(spent.input), tokens(spent.cached), tokens(spent.output))
    return (*counts, dollars(spent.cost) + ("+?" if spent.unpriced else ""), seconds(spent.seconds))


def _counted(spent: Spent, noun: str) -> str:
    bad = ((spent.errors, "failed"), (spent.cancelled, "cancelled"))
    said = ", ".join(f"{count} {word}" for count, word in bad if count)
    return f"{spent.calls} {noun}{'' if spent.calls == 1 else 's'}{f' ({said})' if said else ''}"


def tokens(count: int) -> str:
    """A number of tokens for people; none is shown as nothing."""
    return f"{count:,}" if count else ""


def dollars(cost: Decimal | None) -> str:
    """A cost for people; an unknown one is a question mark, never 0."""
    if cost is None:
        return "?"
    if 0 < cost < Decimal("0.00005"):
        return "<$.0001"
    return f"${cost:.4f}" if cost < 1 else f"${cost:,.2f}"


def seconds(duration: float) -> str:
    """A duration for people."""
    if duration < 59.95:
        return f"{duration:.2f}s" if duration < 9.995 else f"{duration:.1f}s"
    minutes, rest = divmod(round(duration), 60)
    return f"{minutes // 60}h{minutes % 60:02}m" if minutes >= 60 else f"{minutes}m{rest:02}s"
