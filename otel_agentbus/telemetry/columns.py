"""A table of names and numbers for any width: the narrower the place, the shorter the numbers.

Where names and numbers do not fit beside each other, the names stand above; where not even the numbers fit, those that
matter least are left out. Like `console`, it needs `rich` and is imported on use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rich.cells import cell_len
from rich.text import Text

from .console import seconds

#: A name is shortened to no less than this for the sake of its line: the first one, the second one.
LABELS = (12, 20)
#: How far the second name stands below the first.
INDENT = 2

Count = Callable[[int], str]


class Column(NamedTuple):
    """A column of numbers."""

    name: str
    #: What it is called where counts are short, too.
    short: str = ""
    #: The style of its numbers.
    mark: str = ""
    #: The columns with the highest number are the first to be left out; one with 0 always stays.
    spare: int = 0


@dataclass(frozen=True)
class Layout:
    """How much room a line takes: where the two names stand, and how the numbers look."""

    #: Both beside the numbers; the first above the second; or both above, where they are too long.
    names: Literal["beside", "grouped", "above"]
    count: Count
    gap: int
    #: Columns that are more to spare than this are left out.
    spare: int = 9


def encodable(said: str, encoding: str) -> str:
    """What this encoding can say of it."""
    try:
        return said.encode(encoding, "replace").decode(encoding)
    except LookupError:
        return said.encode("ascii", "replace").decode("ascii")


def printable(said: str) -> str:
    """Without line breaks and control characters, of which a terminal would make something else than text."""
    return "".join(char if char.isprintable() else " " for char in said)


class NumberTable:
    """One table, with the layout in which it fits its width.

    Args:
        titles: what the two names are; the second is empty where there is only one.
        labels: the names of each row. Rows whose first names are the same stand together.
        columns: the numbers.
        cells: gives the texts of the rows and of the total, by how counts are to be written.
        width: in cells; no line is longer.
        encoding: what the place can show.

    """

    def __init__(
        self,
        titles: tuple[str, str],
        labels: Sequence[tuple[str, str]],
        columns: Sequence[Column],
        cells: Callable[[Count], list[tuple[str, ...]]],
        width: int,
        encoding: str,
    ) -> None:
        self._titles = titles
        self._least = LABELS if titles[1] else (LABELS[1], 0)
        self._encoding = encoding
        self._overflow: Literal["ellipsis", "crop"] = "ellipsis" if encoding.startswith("utf") else "crop"
        self._width = width
        self._labels = [(self._plain(first), self._plain(second)) for first, second in labels]
        names = zip(titles, ("total", ""), *self._labels, strict=True)
        self._needed = [max(map(cell_len, each)) for each in names]
        self._fit(columns, cells)

    def drawn(self) -> Text:
        """The lines of the table as one text."""
        first, *cells, last = self._cells
        together = "/".join(filter(None, self._titles))
        header = self._titles if self._layout.names == "beside" else (together, "")
        lines = self._line(*header, self._numbers(first, "dim"), "dim")
        before: str | None = None
        for (one, other), texts in zip(self._labels, cells, strict=True):
            lines += self._line(one, other, self._numbers(texts), "", is_new=one != before)
            before = one
        lines += self._line("total", "", self._numbers(last, "bold"), "bold")
        for line in lines:
            line.rstrip()
        return Text("\n", no_wrap=True, overflow="crop").join(lines)

    def _plain(self, name: str) -> str:
        return encodable(printable(name), self._encoding)

    def _fit(self, columns: Sequence[Column], cells: Callable[[Count], list[tuple[str, ...]]]) -> None:
        """Find the first layout that fits, the widths of its columns, and the texts in them."""
        firsts, seconds_ = map(min, self._least, self._needed)
        for layout in _LAYOUTS:
            kept = [number for number, column in enumerate(columns) if column.spare <= layout.spare]
            headers = tuple((layout.count is compact and column.short) or column.name for column in columns)
            texts = [tuple(row[number] for number in kept) for row in (headers, *cells(layout.count))]
            widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
            left = self._width - sum(widths) - layout.gap * len(widths)
            beside = firsts + (layout.gap + seconds_ if self._titles[1] else 0)
            needed = {"beside": beside, "grouped": max(firsts, INDENT + seconds_), "above": 0}
            if left >= needed[layout.names]:
                break
        self._layout, self._cells, self._widths = layout, texts, widths
        self._marks = [columns[number].mark for number in kept]
        self._left = max(left, 0)

    def _numbers(self, texts: tuple[str, ...], style: str = "") -> Text:
        numbers = Text(style=style)
        for text, room, mark in zip(texts, self._widths, self._marks, strict=True):
            numbers.append(" " * self._layout.gap)
            numbers.append(text.rjust(room), "" if style == "dim" else mark)
        return numbers

    def _line(self, first: str, second: str, numbers: Text, style: str, *, is_new: bool = True) -> list[Text]:
        """The names before their numbers or, where there is no room for them, on lines above."""
        gap, (longest, other) = self._layout.gap, self._needed
        if self._layout.names == "beside":
            gap = gap if self._titles[1] else 0
            room = max(min(longest, self._left - gap - other), min(longest, self._least[0]))
            names = self._cut(first, room, style).append(" " * gap)
            names.append_text(self._cut(second, min(other, self._left - gap - room), style))
            return [names.append_text(numbers)]
        if not second:
            above, name = [], first
        else:
            above, name = [self._cut(first, self._width, style)] if is_new else [], " " * INDENT + second
        if self._layout.names == "above" and cell_len(name) > self._left:
            above.append(self._cut(name, self._width, style))
            name = ""
        room = min(self._left, max(longest, INDENT + other))
        return [*above, self._cut(name, room, style).append_text(numbers)]

    def _cut(self, name: str, room: int, style: str) -> Text:
        text = Text(name, style)
        text.truncate(room, overflow=self._overflow, pad=True)
        return text


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
    *(Layout("above", compact, 1, spare) for spare in (9, 3, 2, 1, 0)),
)
