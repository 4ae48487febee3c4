"""What runs have said, so that an exception that quotes it can be reported without it.

An error's text is kept although content is not, and half of all exceptions quote what they choked on. So the strings in
the content of open runs are remembered: nothing else of it, so that no object of the application lives longer for it,
and bounded in runs, pieces and characters. Only a call that brings content, and an error, pay for it.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import islice

from .quotes import CONTENT, Quote, Quotes
from .rendering import fields_of
from .secrets import REDACTED, is_secret_name

#: A string of a content, and what to put in its place.
Piece = tuple[str, str]

_SHORTEST = 8
_SHORTEST_SECRET = 5
_MAX_NODES = 1024
_MAX_PIECE = 1 << 18
_MAX_PARSED = 1 << 18
_MAX_SEARCHED = 1 << 20
_RECENT = 32
_CONTAINERS = frozenset((dict, list, tuple))
#: Words of the schemas of messages: they tell nothing.
_SCHEMA_WORDS = frozenset(
    (
        *("assistant", "developer", "function", "tool_call", "tool_calls", "tool_call_response", "tool_result"),
        *("tool_use", "reasoning", "thinking", "image_url", "input_text", "output_text", "function_call"),
        *("function_call_output", "redacted_thinking", "input_image", "input_audio"),
    )
)


class _Run:
    __slots__ = ("chars", "over", "pieces")

    def __init__(self) -> None:
        self.pieces: dict[str, str] = {}
        self.chars = 0
        self.over = False


class Passages:
    """The strings in the content of the runs that are open, and of the last few that are over."""

    def __init__(self, *, runs: int = 512, pieces: int = 1024, chars: int = 1 << 20, total: int = 1 << 24) -> None:
        self._max_runs = runs
        self._max_pieces = pieces
        self._max_chars = chars
        self._max_total = total
        #: How many pieces of runs still open were given up because of these bounds.
        self.forgotten = 0
        self.clear()

    def clear(self) -> None:
        """Forget everything; for a forked child, too, whose parent's lock may have been held."""
        #: By the root's id, the idle longest first.
        self._runs: OrderedDict[str, _Run] = OrderedDict()
        self._over: OrderedDict[str, None] = OrderedDict()
        self._total = 0
        # Reentrant: the garbage collector may end a stream, which emits an event, while this thread holds it.
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._runs)

    def remember(self, root: str, content: object) -> None:
        """Note what this content says."""
        self._note(root, pieces_of(content))

    def remember_secrets(self, root: str, secrets: Iterable[str]) -> None:
        """Note secrets that only their keys gave away."""
        self._note(root, ((secret, REDACTED) for secret in secrets if len(secret) >= _SHORTEST_SECRET))

    def end(self, root: str) -> None:
        """The run is over: what it said is kept for a late error only, as long as there is room."""
        with self._lock:
            run = self._runs.get(root)
            if run is not None:
                run.over = True
                self._over[root] = None
                while len(self._over) > _RECENT:
                    self._drop(next(iter(self._over)))

    def quotes(self, root: str | None, text: str) -> list[Quote]:
        """Where a text quotes what its run has said; a text of no run may quote the one that spoke last."""
        pieces = self._known(root)
        return Quotes(text).of(pieces) if pieces else []

    def _note(self, root: str, pieces: Iterable[Piece]) -> None:
        found = list(pieces)
        if not found:
            return
        with self._lock:
            run = self._runs.setdefault(root, _Run())
            self._runs.move_to_end(root)
            for piece, label in found:
                if piece not in run.pieces:
                    run.chars += len(piece)
                    self._total += len(piece)
                run.pieces[piece] = label
            self._bound(run)

    def _bound(self, run: _Run) -> None:
        while len(run.pieces) > self._max_pieces or (run.chars > self._max_chars and len(run.pieces) > 1):
            oldest = next(iter(run.pieces))
            del run.pieces[oldest]
            run.chars -= len(oldest)
            self._total -= len(oldest)
            self.forgotten += 1
        while len(self._runs) > self._max_runs or (self._total > self._max_total and len(self._runs) > 1):
            self._drop(next(iter(self._over or self._runs)))

    def _drop(self, root: str) -> None:
        self._over.pop(root, None)
        run = self._runs.pop(root, None)
        if run is not None:
            self._total -= run.chars
            self.forgotten += 0 if run.over else len(run.pieces)

    def _known(self, root: str | None) -> dict[str, str]:
        with self._lock:
            if root is not None:
                run = self._runs.get(root)
                runs = [] if run is None else [run]
            else:
                runs = list(reversed(self._runs.values()))
            known: dict[str, str] = {}
            room = _MAX_SEARCHED
            for run in runs:
                known |= run.pieces
                room -= run.chars
                if room <= 0:
                    break
        return known | dict(_inside_json(known))


def pieces_of(content: object) -> Iterator[Piece]:
    """The strings in a content that are long enough to tell something, the newest first."""
    stack: list[tuple[object, str]] = [(content, CONTENT)]
    for _ in range(_MAX_NODES):
        if not stack:
            return
        value, label = stack.pop()
        if value is None or type(value) is bool:
            continue
        text = value if type(value) is str else _text_of(value)
        if text is None:
            stack += _opened(value, label)
        elif len(text) >= (_SHORTEST if label == CONTENT else _SHORTEST_SECRET) and text not in _SCHEMA_WORDS:
            yield from _clipped(text, label)


def _opened(value: object, label: str) -> list[tuple[object, str]]:
    try:
        return _items(value, label)
    except Exception:  # noqa: BLE001 - the value's own code: isolation point
        return []


def _clipped(text: str, label: str) -> Iterator[Piece]:
    if len(text) <= _MAX_PIECE:
        yield text, label
    else:
        yield text[: _MAX_PIECE // 4 * 3], label
        yield text[-_MAX_PIECE // 4 :], label


def _text_of(value: object) -> str | None:
    """The text of what is no container and no object of the application; of any object it would be its own code's."""
    if type(value) in _CONTAINERS:
        return None
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return str(int(value)) if value.bit_length() < 256 else ""
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, (bytes, bytearray)):
        return bytes(value[: _MAX_PIECE // 4]).decode("utf-8", "replace")
    return None


def _items(value: object, label: str) -> list[tuple[object, str]]:
    """What a container holds, the newest last, with at most as much as is ever looked at."""
    fields: Iterable[tuple[object, object]] | None = None
    if isinstance(value, dict):
        fields = list(islice(dict.items(value), _MAX_NODES))
    elif isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return [(item, label) for item in value[-_MAX_NODES:]]
    elif isinstance(value, AbstractSet):
        return [(item, label) for item in list(islice(value, _MAX_NODES))]
    elif isinstance(value, Mapping):
        fields = list(islice(value.items(), _MAX_NODES))
    else:
        fields = fields_of(value)
    return [pair for key, item in fields or () for pair in _entry(key, item, label)]


def _entry(key: object, item: object, label: str) -> Iterator[tuple[object, str]]:
    if not isinstance(key, str):
        yield from ((key, label), (item, label))
        return
    if not key.isidentifier():  # the names of arguments are no content, addresses and sentences are
        yield key, label
    yield item, REDACTED if is_secret_name(key) else label


def _inside_json(pieces: Mapping[str, str]) -> Iterator[Piece]:
    """What stands in pieces that are themselves JSON, such as the arguments of a tool call."""
    room = _MAX_PARSED
    for piece, label in pieces.items():
        if piece[:1] in ("{", "[") and len(piece) <= room:
            room -= len(piece)
            try:
                inner = json.loads(piece)
            except (ValueError, RecursionError):
                continue
            yield from ((text, REDACTED if label == REDACTED else found) for text, found in pieces_of(inner))
