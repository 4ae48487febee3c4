"""One run on a terminal or in a pipe, as it is at a moment: its tree, and beside it where its time went."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.text import Text

from .columns import Column, Count, NumberTable
from .console import HEADERS, View, dollars, lines_of, seconds
from .outline import Outline, Row, Spent
from .shares import Part, Shares, descendants

if TYPE_CHECKING:
    from rich.console import Console

#: From this width on a run is drawn with longer bars and wider gaps; it never takes more than the last one.
_WIDE, _WIDEST = 100, 140
#: Below these the bars are left out, then the tokens, then the costs.
_BARS, _TOKENS, _COSTS = 72, 60, 36
#: What took at least this share of the time by itself stands out.
_MUCH = 0.2
_MOST = 3
_NOUNS = {"agent": "run", "llm": "model call", "tool": "tool call"}
_WORDS = {"error": "failed"}
_COLUMNS = (
    Column("calls"),
    Column("err", mark="red"),
    Column("in", spare=1),
    Column("cached", spare=2),
    Column("out", spare=1),
    Column("cost"),
    Column("time"),
)


class RunView(View):
    """Shows the trees of an outline one by one, with the share of each row and a bar of when it went on."""

    def __init__(self, outline: Outline, console: Console, clock: Callable[[], int] = time.time_ns) -> None:
        super().__init__(outline, console, clock)
        width = console.width
        self._width = min(width, _WIDEST)
        self._gap = 2 if width >= _WIDE else 1
        self._bar = 0 if width < _BARS else 10 if width < _WIDE else 20 if width < _WIDEST else 30
        dropped = 0 if width >= _TOKENS else 2 if width >= _COSTS else 3
        self._columns = HEADERS[dropped:]

    def run(self, root: Row) -> Text:
        """The tree below this root; all lines have the same width at most, that of the terminal."""
        now_ns = self._clock()
        shares = Shares(root, now_ns)
        lines = list(lines_of([root], self._signs))
        cells = [self._shared(line.row, shares, now_ns) for line in lines]
        headers = (*self._columns, "share", *(["when".ljust(self._bar)] if self._bar else []))
        widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
        drawn = [self._joined(self._legend(), [Text(header) for header in headers], widths)]
        drawn[0].stylize("dim")
        for line, texts in zip(lines, cells, strict=True):
            drawn.append(self._joined(self._label(line, now_ns), self._styled(line.row, texts, shares), widths))
        for each in drawn:
            each.rstrip()
        return Text("\n", no_wrap=True, overflow="crop").join(drawn)

    def most(self, root: Row) -> str:
        """What took most of the run's time by itself, in a line; nothing where nothing took any."""
        parts = Shares(root, self._clock()).largest(_MOST)
        return f"Most of the time: {', '.join(map(self._part, parts))}" if parts else ""

    def sum(self) -> str:
        """How many runs and tool calls there were, and how they ended, in a line."""
        totals = self.outline.totals
        rows = [row for each in self.outline.roots for row in descendants(each)]
        said = [_counted([row for row in rows if row.kind == kind], noun) for kind, noun in _NOUNS.items()]
        if totals.tokens_saved:
            said.append(f"{totals.tokens_saved:,} tokens saved")
        return ", ".join(said)

    def spent(self) -> Text:
        """What each agent has spent with each model, and the sum, in lines that fit."""
        totals = self.outline.totals
        spent = [*totals.models.values(), totals.llm]

        def cells(count: Count) -> list[tuple[str, ...]]:
            return [_spent(each, count) for each in spent]

        width, encoding = self.console.width, self.console.encoding.lower()
        labels = [(agent or "-", model or "-") for agent, model in totals.models]
        return NumberTable(("agent", "model"), labels, _COLUMNS, cells, width, encoding).drawn()

    def outcome(self, root: Row) -> str:
        """How the run ended, and how long it took, in a few words."""
        took = seconds(root.seconds(self._clock()))
        return f"running for {took}" if root.is_open else f"{root.outcome} after {took}"

    def _part(self, part: Part) -> str:
        times = f" ({part.rows} times)" if part.rows > 1 else ""
        return f"{self._plain(part.name)} {part.share:.0%}{times}"

    def _shared(self, row: Row, shares: Shares, now_ns: int) -> tuple[str, ...]:
        cells = self._cells(row, now_ns)[len(HEADERS) - len(self._columns) :]
        share = None if row.kind == "moment" else shares.of(row)
        said = "" if share is None else f"{share:.0%}" if share >= 0.005 or not share else "<1%"
        bar = shares.bar(row, self._bar, self._signs.own, self._signs.other).ljust(self._bar)
        return (*cells, said, *([bar] if self._bar else []))

    def _styled(self, row: Row, texts: tuple[str, ...], shares: Shares) -> list[Text]:
        style = "bold" if row.kind == "agent" else ""
        numbers = [Text(text, style) for text in texts]
        numbers[len(self._columns) - 1].style = "cyan" if row.is_open else ""
        is_leaf = all(child.kind == "moment" for child in row.children)
        for number in numbers[len(self._columns) :]:
            number.style = "bold yellow" if is_leaf and (shares.of(row) or 0) >= _MUCH else ""
        return numbers

    def _sign(self, row: Row, now_ns: int) -> str:
        return self._signs.still if row.is_open else super()._sign(row, now_ns)

    def _reason(self, row: Row) -> str:
        return "running" if row.is_open else row.reason or ("interrupted" if row.outcome == "interrupted" else "")

    def _legend(self) -> Text:
        signs = self._signs
        return Text(f"{signs.ok} ok {signs.error} error {signs.cancelled} cancelled {signs.still} running")


def _counted(rows: list[Row], noun: str) -> str:
    outcomes = Counter(row.outcome or "running" for row in rows)
    bad = ((outcomes[key], _WORDS.get(key, key)) for key in sorted(outcomes) if key != "ok")
    said = ", ".join(f"{count:,} {word}" for count, word in bad)
    return f"{len(rows):,} {noun}{'' if len(rows) == 1 else 's'}{f' ({said})' if said else ''}"


def _spent(spent: Spent, count: Count) -> tuple[str, ...]:
    counts = (spent.errors, spent.input, spent.cached, spent.output)
    return (
        count(spent.calls),
        *(count(number) if number else "" for number in counts),
        dollars(spent),
        seconds(spent.seconds),
    )


__all__ = ["RunView"]
