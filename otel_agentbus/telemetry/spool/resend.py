"""Sends what lies in one spool directory, to whatever sender is given: for spools whose own programs come no more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from otel_agentbus.journal import Record, SegmentJournal

from ..otlp import Batch
from ..senders.verdict import Sender, Verdict
from .complaints import Complaints
from .counts import SpoolCounts
from .dead_letters import DeadLetters
from .exporter import MAX_BYTES
from .parcel import Parcel
from .store import Store

#: Told how many spans are done, and of how many.
Progress = Callable[[int, int], object]

#: Seconds between two tries of a batch on which the endpoint fails.
PAUSE_S = 1.0


class Undelivered(Exception):
    """The endpoint does not take what is left, which therefore stays; `counts` says what was sent before that."""

    def __init__(self, verdict: Verdict, counts: SpoolCounts) -> None:
        super().__init__(f"{verdict.kind}: {verdict.message}")
        self.counts = counts


def resend(
    directory: str | Path, sender: Sender, progress: Progress | None = None, *, dead_letters: bool = False
) -> SpoolCounts:
    """Send what dead processes have left in this spool directory, with `dead_letters` also what was refused before.

    What living processes have there is theirs to send. Refused again, spans become dead letters again.

    Raises:
        Undelivered: the endpoint cannot be reached, or does not accept our credentials.
        OSError: the directory cannot be read or written.

    """
    path = Path(directory)
    letters = DeadLetters(path, MAX_BYTES)
    with _adopted(path, letters, sender) as store:
        store.adopt()
        total = store.counts.adopted + (letters.spans if dead_letters else 0)
        done = _Done(total, progress)
        if dead_letters:
            _send_letters(letters, store, sender, done)
        while (record := store.first() or _next_of_others(store)) is not None:
            parcel = Parcel(Batch(data=record.data), record.items)
            if verdict := _send(parcel, sender, store):
                raise Undelivered(verdict, store.counts)
            store.settle(record, parcel.tally)
            done.add(record.items)
        return store.counts


@contextmanager
def _adopted(path: Path, letters: DeadLetters, sender: Sender) -> Iterator[Store]:
    store = Store(lambda: SegmentJournal(path), lambda: None, letters, sender.name, Complaints())
    try:
        yield store
    finally:
        store.close()


def _send_letters(letters: DeadLetters, store: Store, sender: Sender, done: _Done) -> None:
    """Send the dead letters; what is refused again is written down again, with the reason of now."""
    with letters.taken() as waiting:
        while waiting:
            letter = waiting[0]
            parcel = Parcel(Batch(data=letter.otlp), letter.spans)
            verdict = _send(parcel, sender, store)
            if verdict is not None:
                raise Undelivered(verdict, store.counts)
            store.take(letter.spans)
            store.book(parcel.tally)
            waiting.pop(0)
            done.add(letter.spans)


def _next_of_others(store: Store) -> Record | None:
    """A journal takes over so many dead writers at a time."""
    return store.first() if store.adopt() else None


def _send(parcel: Parcel, sender: Sender, store: Store) -> Verdict | None:
    while verdict := parcel.send(sender, store.bury, lambda: False):
        if verdict.kind != "failed":
            return verdict
        time.sleep(PAUSE_S)
    return None


class _Done:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self._done, self._total, self._progress = 0, total, progress

    def add(self, spans: int) -> None:
        self._done += spans
        if self._progress is not None:
            self._progress(self._done, max(self._total, self._done))
