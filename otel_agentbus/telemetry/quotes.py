"""Where a text quotes pieces of content: whole, as JSON or `repr` escapes them, in parts of twenty characters, or as
a number or an address that only the content has.

The cost is bounded by the length of the text and of the pieces together; a text that defeats the bound is
withheld whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from .secrets import REDACTED

#: From where to where, and what to put in its place.
Quote = tuple[int, int, str]

CONTENT = "[content]"

_PART = 20  # a common part of this length is a quote
_GRAM = 10  # it is found by one of its tens, every tenth of the content's is looked up
_MAX_PLACES = 8
_MAX_STEPS = 500_000
_MAX_TOKENS = 64
_GAP = 8  # what stands between two quotes and is shorter belongs to them
_ESCAPE = re.compile(
    r"\\u[dD]([89abAB][0-9a-fA-F]{2})\\u[dD]([c-fC-F][0-9a-fA-F]{2})"  # the two halves of one character
    r"|\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|x([0-9a-fA-F]{2})|(.))",
    re.DOTALL,
)
_PLAIN_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0"}
_TOKEN = re.compile(r"""[^\s"'`,;()\[\]{}<>=\\]{8,}""")


class TooMuch(Exception):
    """The search has used up its steps."""


class _View:
    """A text as it is or with its escapes resolved, and where each of its characters comes from."""

    def __init__(self, text: str, origins: list[int] | None = None) -> None:
        self.text = text
        self._origins = origins
        self._grams: dict[str, list[int]] | None = None

    def span(self, start: int, end: int) -> tuple[int, int]:
        return (start, end) if self._origins is None else (self._origins[start], self._origins[end])

    @property
    def grams(self) -> dict[str, list[int]]:
        if self._grams is None:
            self._grams = {}
            for at in range(len(self.text) - _GRAM + 1):
                gram = self.text[at : at + _GRAM]
                if gram.count(gram[0]) < _GRAM:  # a line of dashes is no quote
                    places = self._grams.setdefault(gram, [])
                    if len(places) < _MAX_PLACES:
                        places.append(at)
        return self._grams

    def resolved(self) -> _View | None:
        """The text with its escapes resolved once more; None if it has none."""
        if "\\" not in self.text:
            return None
        origins = self._origins or list(range(len(self.text) + 1))
        text: list[str] = []
        places: list[int] = []
        end = 0
        for escape in _ESCAPE.finditer(self.text):
            text.append(self.text[end : escape.start()])
            places += origins[end : escape.start()]
            text.append(_resolved(escape))
            places.append(origins[escape.start()])
            end = escape.end()
        text.append(self.text[end:])
        return _View("".join(text), places + origins[end:])


def _resolved(escape: re.Match[str]) -> str:
    """The one character that an escape stands for."""
    if escape[1] is not None:
        return chr(0x10000 + ((int(escape[1], 16) - 0x800) << 10) + int(escape[2], 16) - 0xC00)
    code = escape[3] or escape[4] or escape[5]
    if code is None:
        return _PLAIN_ESCAPES.get(escape[6], escape[6])
    return chr(int(code, 16)) if int(code, 16) < 0x110000 else "\ufffd"


def _tells(token: str) -> bool:
    return len(token) >= 8 and ("@" in token or any(char.isdigit() for char in token))


class Quotes:
    """The quotes in one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._steps = _MAX_STEPS
        self._views = [_View(text)]
        while len(self._views) < 3 and (view := self._views[-1].resolved()) is not None:
            self._views.append(view)

    def of(self, pieces: Mapping[str, str]) -> list[Quote]:
        """The quotes of these pieces of content, each with what is to be put in its place."""
        try:
            return [*self._whole(pieces), *self._parts(pieces), *self._tokens(pieces)]
        except TooMuch:
            return [(0, len(self._text), CONTENT)]

    def _whole(self, pieces: Mapping[str, str]) -> Iterator[Quote]:
        for view in self._views:
            for piece, label in pieces.items():
                bare = piece.strip()
                at = view.text.find(bare) if bare else -1
                while at >= 0:
                    self._step(1)
                    yield (*view.span(at, at + len(bare)), label)
                    at = view.text.find(bare, at + len(bare))

    def _parts(self, pieces: Mapping[str, str]) -> Iterator[Quote]:
        for view in self._views:
            if len(view.text) < _PART:
                continue
            seen = bytearray(len(view.text))
            for piece, label in pieces.items():
                if len(piece) >= _PART:
                    for start, end in self._common(view, piece, seen):
                        seen[start:end] = b"\1" * (end - start)
                        if bare := view.text[start:end].strip():
                            start = view.text.index(bare, start)
                            yield (*view.span(start, start + len(bare)), label)

    def _common(self, view: _View, piece: str, seen: bytearray) -> Iterator[tuple[int, int]]:
        grams = view.grams
        for at in range(0, len(piece) - _GRAM + 1, _GRAM):
            for place in grams.get(piece[at : at + _GRAM], ()):
                if not (seen[place] and seen[place + _GRAM - 1]):
                    before = self._common_before(view.text, place, piece, at)
                    after = self._common_after(view.text, place + _GRAM, piece, at + _GRAM)
                    if before + _GRAM + after >= _PART:
                        yield place - before, place + _GRAM + after

    def _common_before(self, text: str, place: int, piece: str, at: int) -> int:
        length = 0
        while length < min(place, at) and text[place - length - 1] == piece[at - length - 1]:
            length += 1
        self._step(length + 1)
        return length

    def _common_after(self, text: str, place: int, piece: str, at: int) -> int:
        length = 0
        while length < min(len(text) - place, len(piece) - at) and text[place + length] == piece[at + length]:
            length += 1
        self._step(length + 1)
        return length

    def _tokens(self, pieces: Mapping[str, str]) -> Iterator[Quote]:
        """Numbers and addresses (of people, mail, machines): they tell something in less than twenty characters."""
        content = "\n".join(pieces)
        known: dict[str, bool] = {}
        for match in _TOKEN.finditer(self._text):
            token = match[0].strip(".:!?-_/*")
            if token not in known and len(known) < _MAX_TOKENS and _tells(token):
                known[token] = token in content
            if known.get(token):
                yield (*match.span(), CONTENT)

    def _step(self, count: int) -> None:
        self._steps -= count
        if self._steps < 0:
            raise TooMuch


def without(text: str, quotes: Iterable[Quote]) -> str:
    """The text with something else in the place of each quote; the same object if there are none."""
    joined: list[Quote] = []
    for start, end, label in sorted(quotes):
        if joined and start <= joined[-1][1] + (_GAP if label == joined[-1][2] == CONTENT else -1):
            last = joined[-1]
            joined[-1] = (last[0], max(last[1], end), REDACTED if REDACTED in (last[2], label) else label)
        else:
            joined.append((start, end, label))
    if not joined:
        return text
    edges = [(0, 0, ""), *joined, (len(text), len(text), "")]
    return "".join(text[before[1] : after[0]] + after[2] for before, after in pairwise(edges))
