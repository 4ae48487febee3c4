"""The texts of errors: without secrets, without what the run's content says, short; or none at all."""

from __future__ import annotations

import re

from otel_agentbus.events import JSON

from .passages import Passages
from .quotes import without
from .redaction import Hook
from .rendering import clipped, dumps, safe_json, size_of, utf8
from .secrets import REDACTED, secret_spans

#: How many bytes of an error's text are kept.
MAX_BYTES = 4096

_SEARCHED = 8192
_EDGE = 32
#: The name of a class or the code of a provider; a code may be anything that has no spaces.
_TYPE = re.compile(r"(?:[A-Za-z_][\w.]{0,127}|\d{3})(?<!\.)", re.ASCII)
_CODE = re.compile(r"[\w.:/$<>\[\]-]{1,64}", re.ASCII)
_MARKER = "…[truncated]"


class ErrorTexts:
    """Scrubs the texts of errors. What a run has said is searched for in them, unless it is exported itself."""

    def __init__(self, passages: Passages, hook: Hook, *, enabled: bool) -> None:
        self._passages = passages
        self._hook = hook
        self._enabled = enabled

    def of(self, field: str, said: object, root: str | None, *, tail: bool = False) -> str:
        """What may be told of this text; `tail` keeps the end of a long one (of a stack trace) instead of its head."""
        return self._cleaned(field, said, root, tail=tail) if self._enabled and said is not None else ""

    def kind(self, said: object, root: str | None) -> str:
        """The type of an error; where a sentence stands in its place, what may be told of that."""
        if type(said) is str and _TYPE.fullmatch(said):
            return said
        kept = self._cleaned("error_type", said, root)
        return kept if self._enabled or (kept == said and _CODE.fullmatch(kept)) else ""

    def _cleaned(self, field: str, said: object, root: str | None, *, tail: bool = False) -> str:
        text = _window(said if type(said) is str else _as_text(said), tail=tail)
        if not text:
            return ""
        quotes = self._passages.quotes(root, text)
        quotes += [(start, end, REDACTED) for start, end in secret_spans(text)]
        kept = self._hook(field, without(text, quotes))
        return _cut(kept, tail=tail) if isinstance(kept, str) else ""


def _as_text(said: object) -> str:
    found: JSON = safe_json(said, 2 * _SEARCHED, 2 * _SEARCHED)
    return found if isinstance(found, str) else dumps(found)


def _window(text: str, *, tail: bool) -> str:
    """As much of a text as is searched; at its edge, no part of what cannot be recognised any more."""
    if len(text) <= _SEARCHED:
        return utf8(text)
    if not tail:
        return utf8(clipped(text, _SEARCHED - _EDGE))
    start = len(text) - _SEARCHED + _EDGE
    while start < len(text) - _EDGE and not text[start].isspace():
        start += 1
    return utf8(_MARKER + text[start:])


def _cut(text: str, *, tail: bool) -> str:
    if size_of(text) <= MAX_BYTES:
        return text
    room = MAX_BYTES - len(_MARKER.encode())
    data = text.encode()
    if tail:
        return _MARKER + data[-room:].decode("utf-8", "ignore")
    return data[:room].decode("utf-8", "ignore") + _MARKER
