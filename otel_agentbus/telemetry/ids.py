"""Trace and span ids that follow from the events alone: a stable, published contract.

    H(n, domain, *parts) = blake2b(digest_size=n, person=b"agentbus." + domain, key=AGENTBUS_ID_KEY),
                           each part as UTF-8 behind its length (u32, big endian)
    trace_id = H(16, "trace", root_invocation_id)
    span_id  = H(8, "span", root_invocation_id, kind, invocation_id, local_id, attempt)

The ids of what other instrumentation has told us of (`adapters/otel`) end in `@span:` and the id of the span that is
exported there, in sixteen hexadecimal digits: that is their span's id, and no span of ours is made at their place.

An all-zero digest (invalid in W3C Trace Context) is hashed again with a counter behind its parts. `tests/vectors` has
the published test vectors. A UUID is never used raw: samplers compare bits of the trace id that are fixed in a UUID.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Literal

SpanKindName = Literal["agent", "llm", "tool", "deployment", "recovery", "event"]


def digest(size: int, domain: str, *parts: str, key: bytes = b"") -> int:
    """The keyed hash of length-prefixed parts, as an integer of `size` bytes that is never zero."""
    encoded = b"".join(_with_length(part) for part in parts)
    person = b"agentbus." + domain.encode()
    value = int.from_bytes(blake2b(encoded, digest_size=size, person=person, key=key).digest(), "big")
    counter = 0
    while value == 0:
        counter += 1
        again = encoded + _with_length(str(counter))
        value = int.from_bytes(blake2b(again, digest_size=size, person=person, key=key).digest(), "big")
    return value


def _with_length(part: str) -> bytes:
    raw = part.encode("utf-8", "surrogatepass")
    return len(raw).to_bytes(4, "big") + raw


_FIRST = _with_length("1")


class Ids:
    """The ids of one deployment: everybody who shares the key derives the same ones."""

    __slots__ = ("_begun", "_key", "span_id", "trace_id")

    def __init__(self, key: bytes = b"") -> None:
        self._key = key[:64]  # what BLAKE2b takes
        # Siblings ask for the same parent again and again; a run's calls ask for the same trace.
        self.trace_id = lru_cache(maxsize=4096)(self._trace_id)
        self.span_id = lru_cache(maxsize=16384)(self._span_id)
        self._begun = lru_cache(maxsize=1024)(self._begin)

    def _trace_id(self, root_invocation_id: str) -> int:
        """The trace of a tree that has no outer trace."""
        return digest(16, "trace", root_invocation_id, key=self._key)

    def _span_id(self, root: str, kind: SpanKindName, invocation_id: str, local_id: str = "", attempt: int = 1) -> int:
        """The span of a run or call: a function of what every participant knows."""
        if span := exported_elsewhere(local_id or invocation_id):
            return span
        hasher = self._begun(root, kind, invocation_id).copy()  # the calls of a run differ in their last parts only
        hasher.update(_with_length(local_id) + (_FIRST if attempt == 1 else _with_length(str(attempt))))
        found = int.from_bytes(hasher.digest(), "big")
        return found or digest(8, "span", root, kind, invocation_id, local_id, str(attempt), key=self._key)

    def _begin(self, *parts: str) -> blake2b:
        return blake2b(b"".join(map(_with_length, parts)), digest_size=8, person=b"agentbus.span", key=self._key)


_ELSEWHERE = "@span:"
_DIGITS = frozenset("0123456789abcdef")


def exported_elsewhere(id: str) -> int:
    """The span that somebody else exports of the run or call with this id; 0 where the span is ours."""
    if id[-22:-16] != _ELSEWHERE:
        return 0
    digits = id[-16:]
    return int(digits, 16) if _DIGITS.issuperset(digits) else 0


def call_of(parent_call_id: str) -> tuple[SpanKindName, str]:
    """What an event's `parent_call_id` names: `llm:` and a model call's id, else a tool call's id as it is."""
    if parent_call_id.startswith("llm:"):
        return "llm", parent_call_id[4:]
    if parent_call_id.startswith("tool:"):
        return "tool", parent_call_id[5:]
    return "tool", parent_call_id
