"""The `trace` field of the envelope: the outer trace and the sampling decision, in the form of a W3C traceparent.

    00-{trace id}-{span id of the outer span, zeros if none}-{flags}[-{marks}]

Flags are W3C's (01 sampled, 02 random trace id). Marks are ours: `r` recorded though not sampled, `x` the outer span is
in another process.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

SAMPLED, RANDOM = 0x01, 0x02

_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-([a-z]*))?\Z")


class Origin(NamedTuple):
    """Where a tree comes from, and whether it is kept."""

    trace_id: int
    span_id: int = 0
    flags: int = SAMPLED
    recorded: bool = True
    remote: bool = False

    @property
    def sampled(self) -> bool:
        """Whether the tree's spans are exported."""
        return bool(self.flags & SAMPLED)

    def __str__(self) -> str:
        marks = ("r" if self.recorded and not self.sampled else "") + ("x" if self.remote else "")
        text = f"00-{self.trace_id:032x}-{self.span_id:016x}-{self.flags:02x}"
        return f"{text}-{marks}" if marks else text


@lru_cache(maxsize=4096)
def read_origin(text: str | None) -> Origin | None:
    """What an envelope's `trace` says; None where it says nothing that can be used."""
    found = _FORM.match(text) if text else None
    if found is None or found[1] == "ff" or int(found[2], 16) == 0:
        return None
    flags = int(found[4], 16) & (SAMPLED | RANDOM)
    marks = found[5] or ""
    return Origin(int(found[2], 16), int(found[3], 16), flags, bool(flags & SAMPLED) or "r" in marks, "x" in marks)
