"""JSON that is too large, cut leaf by leaf: what comes out is valid JSON of the same shape, within so many bytes.

First the data of blobs goes, then long strings are cut to one common length, then long lists and objects lose items.
What is missing is said where it was. Messages and their parts (the GenAI schema) stay messages and parts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

from otel_agentbus.events import JSON

from .rendering import dumps, size_of

#: The least that a value can be cut to: what is left of a list of messages of which nothing is left.
MIN_BYTES = 256

Object = dict[str, JSON]
_T = TypeVar("_T")

_SHORT = 80  # leaves of fewer bytes are never cut: a marker takes half of that
_BREADTHS = (1 << 30, 256, 64, 16, 8, 4, 2, 1)
_FEWEST_KEYS = 4  # as many as a part of a message needs, and they come first
_MARKED = re.compile(r"…\[truncated \d+ of (\d+) chars\]\Z")


def fitted(value: JSON, max_bytes: int) -> tuple[JSON, str]:
    """The value and its JSON text, cut to so many bytes; the same object if it need not be cut."""
    text = dumps(value)
    size = size_of(text)
    if size <= max_bytes:
        return value, text
    whole = _mapped(value, _without_blob, _same)
    for breadth in _BREADTHS:
        cut = _with_short_leaves(_narrowed(whole, breadth), max_bytes)
        if cut is not None:
            return cut
    nothing = _nothing_left(value, size)
    return nothing, dumps(nothing)


def _with_short_leaves(value: JSON, max_bytes: int) -> tuple[JSON, str] | None:
    """The value with its long leaves cut to the longest common size that fits; None if that would be too short."""
    text = dumps(value)
    size = size_of(text)
    if size > max_bytes:
        sizes = sorted(found for leaf in _leaves(value) if (found := _size(leaf)) > _SHORT)
        longest = _common_size(sizes, max_bytes - (size - sum(sizes)))
        if longest < _SHORT:
            return None
        value = _mapped(value, _same, lambda leaf: _cut(leaf, longest))
        text = dumps(value)
    return value, text


def _common_size(sizes: list[int], room: int) -> int:
    """To which size leaves (smallest first) must be cut so that all of them fit into the room."""
    for index, size in enumerate(sizes):
        share = room // (len(sizes) - index)
        if size > share:
            return share
        room -= size
    return 0


def _size(leaf: str) -> int:
    return size_of(dumps(leaf)) - 2


def _cut(leaf: str, size: int) -> str:
    if len(leaf) * 6 <= size or _size(leaf) <= size:
        return leaf
    marked = _MARKED.search(leaf)
    body, total = (leaf[: marked.start()], int(marked[1])) if marked else (leaf, len(leaf))
    room = size - len(f"..…[truncated {total} of {total} chars]")
    length = max(0, min(room, len(body)))
    while length > 0 and (found := _size(body[:length])) > room:
        length = min(length - 1, length * room // found)
    return f"{body[:length]}…[truncated {total - length} of {total} chars]"


def _leaves(value: JSON) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)


def _mapped(value: JSON, on_object: Callable[[Object], Object], on_leaf: Callable[[str], str]) -> JSON:
    if isinstance(value, str):
        return on_leaf(value)
    if isinstance(value, list):
        return [_mapped(item, on_object, on_leaf) for item in value]
    if isinstance(value, dict):
        return {key: _mapped(item, on_object, on_leaf) for key, item in on_object(value).items()}
    return value


def _same(value: _T) -> _T:
    return value


def _without_blob(part: dict[str, JSON]) -> dict[str, JSON]:
    data = part.get("content")
    if part.get("type") == "blob" and isinstance(data, str) and len(data) > _SHORT:
        return {**part, "content": _cut(data, 0)}
    return part


def _narrowed(value: JSON, breadth: int) -> JSON:
    if isinstance(value, list):
        items = value if len(value) <= breadth else _fewer(value, breadth)
        return [_narrowed(item, breadth) for item in items]
    if isinstance(value, dict):
        room = max(breadth, _FEWEST_KEYS)
        kept = {key: _narrowed(item, breadth) for key, item in islice(value.items(), room)}
        if len(value) > room:
            kept["…"] = f"[truncated {len(value) - room} of {len(value)} keys]"
        return kept
    return value


def _fewer(items: list[JSON], kept: int) -> list[JSON]:
    """Of messages the first and the last are worth most, of anything else the first."""
    if _is_message(items[0]):
        first, last = (items[:1], items[len(items) - kept + 1 :]) if kept > 1 else ([], items[-1:])
        return [*first, _omission(items[0], len(items) - kept, len(items)), *last]
    return [*items[:kept], _omission(items[0], len(items) - kept, len(items))]


def _is_message(item: JSON) -> bool:
    return isinstance(item, dict) and "role" in item and "parts" in item


def _is_part(item: JSON) -> bool:
    return isinstance(item, dict) and isinstance(item.get("type"), str)


def omitted_message(like: JSON, note: str) -> dict[str, JSON]:
    """A message that stands for messages that are left out."""
    message: dict[str, JSON] = {"role": "…", "parts": [{"type": "text", "content": note}]}
    if isinstance(like, dict) and "finish_reason" in like:
        message["finish_reason"] = "…"
    return message


def _omission(like: JSON, missing: int, total: int) -> JSON:
    if _is_message(like):
        return omitted_message(like, f"…[truncated {missing} of {total} messages]")
    note = f"…[truncated {missing} of {total} items]"
    return {"type": "text", "content": note} if _is_part(like) else note


def _nothing_left(value: JSON, size: int) -> JSON:
    note = f"…[truncated {size} of {size} bytes]"
    if isinstance(value, dict):
        return {"…": note}
    if not isinstance(value, list):
        return note
    if _is_message(value[0]):
        return [omitted_message(value[0], note)]
    return [{"type": "text", "content": note} if _is_part(value[0]) else note]
