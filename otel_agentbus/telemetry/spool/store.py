"""What is kept on disk for one endpoint, and the books of it: the journal, the dead letters, every span accounted for.

Nothing here raises: a disk that fails costs the spans that it did not take, which are counted and told.
"""

from __future__ import annotations

import contextlib
import errno
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

from otel_agentbus.journal import Journal, JournalCounts, Position, Record

from ..otlp import Batch
from .complaints import Complaints
from .counts import SpoolCounts, Tally
from .dead_letters import DeadLetters
from .off import SpoolOff

#: Called with a reason and a number of spans, whenever spans are lost or refused for good.
OnLoss = Callable[[str, int], object]


class Backing(Journal, Protocol):
    """What a spool needs of a journal beyond the protocol."""

    @property
    def pending(self) -> int:
        """Items that wait, own and adopted."""

    @property
    def bytes(self) -> int:
        """What they take."""

    @property
    def counts(self) -> JournalCounts:
        """What was lost in it."""

    def adopt(self) -> int:
        """Take over what dead processes have left; the items."""


class Store:
    """The journal of one endpoint with its books; `open_journal` opens it, and again for what comes after the end."""

    def __init__(
        self,
        open_journal: Callable[[], Backing],
        prepare: Callable[[], None],
        letters: DeadLetters | None,
        name: str,
        complaints: Complaints,
        on_loss: OnLoss | None = None,
    ) -> None:
        self.name = name
        self._open_journal = open_journal
        self._prepare: Callable[[], None] | None = prepare
        self._letters = letters
        self._complaints = complaints
        self._on_loss = on_loss
        self._lock = threading.RLock()
        self._journal: Backing | None = open_journal()
        self._books = SpoolCounts()
        self._before = Counter[str]()  # losses of journals that are closed
        self._left = 0  # items in them
        self._told = Counter[str]()  # losses that `on_loss` knows
        self._settled = 0  # items that went out of the journal in good order
        self._newest: Position | None = None  # of this process's records, if it still waits
        self._reading: Iterator[Record] | None = None

    # The books.

    def take(self, items: int) -> None:
        """So many spans were given to us and are now in flight."""
        with self._lock:
            self._books.taken += items
            self._books.in_flight += items

    def book(self, tally: Tally) -> None:
        """These were in flight and are so no longer."""
        with self._lock:
            self._add(tally)
            self._books.in_flight -= tally.total
        self._tell_losses()

    def drop(self, reason: str, items: int) -> None:
        """These were in flight and are lost."""
        with self._lock:
            self._books.dropped[reason] += items
            self._books.in_flight -= items
        self._tell_losses()

    def _add(self, tally: Tally) -> None:
        self._books.delivered += tally.delivered
        self._books.rejected += tally.rejected
        self._books.dead_lettered += tally.dead_lettered
        if tally.unburied:
            self._books.dropped["dead_letter_failed"] += tally.unburied

    @property
    def counts(self) -> SpoolCounts:
        """A copy of the books as they are now."""
        with self._lock:
            waiting, losses = self._level()
            lost = self._letters.lost if self._letters is not None else 0
            # To make room a journal may have dropped what it would have adopted.
            adopted = max(self._books.adopted, self._settled + waiting + losses.total() - self._books.kept)
            dropped = self._books.dropped + losses
            return replace(self._books, adopted=adopted, dropped=dropped, spooled=waiting, dead_letters_lost=lost)

    @property
    def waiting(self) -> int:
        """Spans on disk."""
        with self._lock:
            return self._level()[0]

    @property
    def size(self) -> int:
        """The bytes that the journal takes on disk."""
        with self._lock:
            return self._journal.bytes if self._journal is not None else 0

    @property
    def own_waiting(self) -> bool:
        """Whether anything waits that this process gave."""
        with self._lock:
            return self._newest is not None and self.waiting > 0

    def _level(self) -> tuple[int, Counter[str]]:
        """What waits, and what the journals have lost so far, at one moment: looking makes a journal find losses."""
        journal = self._journal
        if journal is None:
            return self._left, self._before
        while True:
            losses, pending = _losses(journal), journal.pending
            if _losses(journal) == losses:
                return self._left + pending, self._before + losses

    # What waits.

    def keep(self, batch: Batch, items: int) -> tuple[Position | None, int]:
        """Write down spans that are in flight: where, and how many; those that are lost are counted."""
        try:
            data = batch.data
            items = self._without(batch.left_out, items)
        except Exception as error:  # noqa: BLE001 - an attribute that OTLP cannot hold must not raise into the agent
            self._complaints.say("encode", "%d spans cannot be encoded and are lost: %s", items, error)
            self.drop("encoding", items)
            return None, 0
        if not items:
            return None, 0
        try:
            with self._lock:
                position = self._append(data, items)
                self._books.kept += items
                self._books.in_flight -= items
        except OSError as error:
            if error.errno == errno.EFBIG and items > 1:  # one record of it would be larger than the whole spool
                return self._keep_halves(batch, items)
            reason = _reason(error)
            self._complaints.say(reason, "%s: %d spans cannot be spooled and are lost: %s", self.name, items, error)
            self.drop(reason, items)
            return None, 0
        except Exception as error:  # noqa: BLE001 - whatever a disk or a journal does, the agent must not see it
            self._complaints.say("spool_error", "%s: %d spans cannot be spooled: %r", self.name, items, error)
            self.drop("spool_error", items)
            return None, 0
        self._tell_losses()
        return position, items

    def _keep_halves(self, batch: Batch, items: int) -> tuple[Position | None, int]:
        first, second = batch.halves()
        (earlier, kept), (later, more) = self.keep(first, first.count), self.keep(second, items - first.count)
        return later or earlier, kept + more

    def _without(self, left_out: int, items: int) -> int:
        if left_out:
            self.drop("encoding", left_out)
        return items - left_out

    def _append(self, data: bytes, items: int) -> Position:
        if self._prepare is not None:
            prepare, self._prepare = self._prepare, None
            with contextlib.suppress(OSError):  # only a note: if the disk takes nothing, the journal says so
                prepare()
        if self._journal is not None:
            position = self._journal.append(data, items)
            self._newest = position
            return position
        late = self._open_journal()  # after the end: nobody sends it here, the next process does
        try:
            position = late.append(data, items)
            late.sync()
            self._left += items
            self._newest = position
            return position
        finally:
            late.close()

    def first(self) -> Record | None:
        """The oldest record that waits; None if there is none, or none can be read now."""
        try:
            with self._lock:
                if self._journal is None or not self._journal.pending:
                    self._reading = None
                    self._newest = None
                    return None
                record = next(self._reading, None) if self._reading is not None else None
                if record is None:
                    self._reading = self._journal.read()
                    record = next(self._reading, None)
                return record
        except OSError as error:
            self._complaints.say("read", "%s: the spool cannot be read: %s", self.name, error)
        self.again()
        return None

    def again(self) -> None:
        """Begin reading anew: the record that was read last still waits."""
        with self._lock:
            self._reading = None

    def settle(self, record: Record, tally: Tally) -> None:
        """The record waits no more; what was counted as dropped meanwhile stays so."""
        try:
            with self._lock:
                if self._journal is None:
                    return
                before, lost_before = self._level()
                self._journal.ack(record.position)
                after, lost_after = self._level()
                settled = before - after - (lost_after - lost_before).total()
                self._settled += settled
                if (beyond := settled - tally.total) > 0:  # damaged records, passed over unseen
                    self._books.dropped["spool_corrupt"] += beyond
                tally = tally.within(max(settled, 0))
                self._add(tally)
                self._books.resent += tally.delivered
                if record.position == self._newest:
                    self._newest = None
        except OSError as error:
            self._complaints.say("ack", "%s: what was sent cannot be crossed off: %s", self.name, error)
        self._tell_losses()

    def adopt(self) -> int:
        """Take over what dead processes have left; how many spans."""
        try:
            with self._lock:
                adopted = self._journal.adopt() if self._journal is not None else 0
                self._books.adopted += adopted
                if adopted:
                    self._reading = None
        except OSError as error:
            self._complaints.say("adopt", "%s: what others left cannot be taken over: %s", self.name, error)
            return 0
        return adopted

    # What is refused.

    def bury(self, reason: str, batch: Batch, items: int) -> bool:
        """Put spans into the file of dead letters; whether that was possible."""
        try:
            if self._letters is None:
                raise OSError("there is no directory for them")
            self._letters.write(reason, self.name, items, batch.data)
        except Exception as error:  # noqa: BLE001 - a disk that fails, or bytes that are no spans
            self._complaints.say(
                "bury", "%s refused %d spans, which are lost: %s (%s)", self.name, items, reason, error
            )
            return False
        where = self._letters.path
        self._complaints.say("refused", "%s refused %d spans; they are in %s: %s", self.name, items, where, reason)
        return True

    # The end.

    def sync(self) -> None:
        """Onto the disk itself."""
        journal = self._journal
        if journal is None:
            return
        try:
            journal.sync()
        except OSError as error:
            self._complaints.say("sync", "%s: the spool cannot be synchronised: %s", self.name, error)

    def close(self) -> None:
        """End the journal; what comes later is written by opening it again."""
        with self._lock:
            journal = self._journal
            if journal is None:
                return
            pending, losses = self._level()
            try:
                journal.close()
            except OSError as error:
                self._complaints.say("close", "%s: the spool cannot be closed: %s", self.name, error)
            self._before += _losses(journal)
            self._left = pending - (self._before - losses).total()
            self._journal, self._reading = None, None
        self._tell_losses()

    def after_fork(self) -> None:
        """In the child: empty books; the journal has made itself a new writer."""
        self._lock = threading.RLock()
        self._books = SpoolCounts()
        self._before, self._told, self._left = Counter(), Counter(), 0
        self._settled = 0
        self._newest = self._reading = None
        if self._letters is not None:
            self._letters.lost = 0

    def _tell_losses(self) -> None:
        """Tell `on_loss`, and the log, what has been lost since the last time."""
        with self._lock:
            counts = self.counts
            lost = counts.dropped + Counter(rejected=counts.rejected, dead_lettered=counts.dead_lettered)
            new = lost - self._told
            self._told = lost
        for reason, items in new.items():
            if reason in _SAID_BY_JOURNAL:
                self._complaints.say(reason, "%s: %d spans were dropped from the spool (%s)", self.name, items, reason)
            if self._on_loss is not None:
                try:
                    self._on_loss(reason, items)
                except Exception:  # noqa: BLE001 - somebody else's callback
                    self._complaints.say("on_loss", "%s: on_loss has raised", self.name)


_SAID_BY_JOURNAL = {"spool_full", "spool_age", "spool_removed"}


def _losses(journal: Backing) -> Counter[str]:
    return Counter({f"spool_{reason}": items for reason, items in journal.counts.dropped.items() if items})


def _reason(error: OSError) -> str:
    if isinstance(error, SpoolOff):
        return "spool_off"
    return "spool_full" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "spool_error"
