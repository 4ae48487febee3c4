"""One batch on its way: tried, halved where it is too large, and what cannot be delivered put aside."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..otlp import Batch
from ..senders.verdict import Sender, Verdict
from .counts import Tally

#: How often a batch is tried that the endpoint fails on, before it is taken to be the batch's own fault.
TRIES = 5

#: Puts a batch aside (reason, batch, spans), and says whether it is written down.
Bury = Callable[[str, Batch, int], bool]


class Parcel:
    """A batch and what has become of its spans so far; those that still wait are in `pieces`."""

    def __init__(self, batch: Batch, items: int, tries: int = 0) -> None:
        self.pieces: deque[tuple[Batch, int]] = deque([(batch, items)])
        self.tally = Tally()
        self.tries = tries
        #: How often it was sent and had to wait.
        self.misses = 0
        #: What the endpoint said of spans that it rejected, until somebody has told it.
        self.words: str | None = None
        #: Whether the endpoint has failed on a part of it once too often.
        self.gave_up = False

    def send(self, sender: Sender, bury: Bury, hindered: Callable[[], bool]) -> Verdict | None:
        """Send what is left of it; None when nothing is left, else why it has to wait."""
        while self.pieces:
            if hindered():
                return Verdict("unavailable", message="the process is about to end")
            batch, items = self.pieces[0]
            verdict = _answer(sender, batch)
            if verdict.kind in ("unavailable", "unauthorised"):
                return verdict
            if verdict.kind == "failed":
                self.tries += 1
                if self.tries < TRIES:
                    return verdict
            self._settle(verdict, batch, items, bury)
        return None

    def _settle(self, verdict: Verdict, batch: Batch, items: int, bury: Bury) -> None:
        self.pieces.popleft()
        self.tries, self.gave_up = 0, verdict.kind == "failed"
        if verdict.kind == "delivered":
            rejected = max(0, min(verdict.rejected, items))
            self.tally.rejected += rejected
            self.tally.delivered += items - rejected
            if rejected:
                self.words = f"it rejected {rejected} of {items}: {verdict.message}"
        elif verdict.kind == "too_large" and items > 1 and (parts := _halves(batch, items)):
            self.pieces.extendleft(parts)
        elif bury(_reason(verdict), batch, items):
            self.tally.dead_lettered += items
        else:
            self.tally.unburied += items


def _reason(verdict: Verdict) -> str:
    return f"{verdict.kind}: {verdict.message}" if verdict.message else verdict.kind


def _halves(batch: Batch, items: int) -> list[tuple[Batch, int]]:
    """The second half and the first; none where the bytes are no spans."""
    try:
        first, second = batch.halves()
    except ValueError:
        return []
    return [(second, items - first.count), (first, first.count)]


def _answer(sender: Sender, batch: Batch) -> Verdict:
    try:
        return sender.send(batch)
    except Exception as error:  # noqa: BLE001 - a sender shall not raise; one that does has not delivered
        return Verdict("failed", message=f"{type(error).__name__}: {error}")
