"""The one thread that sends for a spool: fresh batches first, then what waits on disk, one at a time.

Whoever has a fresh batch to send waits for its answer here, as long as it may, and takes the batch back when that is
too long. So nobody is held up by an endpoint, a sender or a thread that hangs. The thread is started before it is
needed: at exit none can be (Python 3.12).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from operator import is_
from typing import Final

from otel_agentbus.journal import Position, Record

from ..otlp import Batch
from ..senders.quiet import suppressed
from ..senders.verdict import Sender, Verdict
from .complaints import Complaints
from .exits import exiting
from .pace import LONGEST_S, Pace
from .parcel import TRIES, Parcel
from .store import Store

_log = logging.getLogger("otel_agentbus.spool")

#: Seconds between two looks for what processes have left that died.
LOOK_S: Final = 30.0
#: Seconds that a sender may take beyond the time limit before its batch is taken back.
GRACE_S: Final = 0.5
#: Seconds that freeing a sender may take.
FREE_S: Final = 0.25
#: How many batches it is remembered of that the endpoint has failed on them before they were spooled.
_REMEMBERED: Final = 1_000


class Job:
    """A fresh batch that somebody waits for; whoever claims it first accounts for it."""

    def __init__(self, batch: Batch, items: int) -> None:
        self.batch = batch
        self.items = items
        self.spans: Sequence[object] = batch.spans
        self.queued = self.begun = time.monotonic()
        self.under_way = self.claimed = self.finished = self.delivered = False


class Courier:
    """Sends for one spool; `timeout` is how long a fresh batch may wait for its turn, and then for its answer."""

    def __init__(
        self, sender: Sender, store: Store, complaints: Complaints, *, timeout: float, exit_timeout: float
    ) -> None:
        self.pace = Pace()
        self._sender = sender
        self._store = store
        self._complaints = complaints
        self._timeout = timeout
        self._exit_timeout = exit_timeout
        self._reset()

    def _reset(self) -> None:
        self._changed = threading.Condition()
        self._jobs: deque[Job] = deque()  # the first may be under way
        self._thread: threading.Thread | None = None
        self._deadline: float | None = None  # from here on nothing is sent
        self._closing = self._ended = self._resending = False
        self._attempt = self._failed = 0  # the number of the newest attempt at the backlog, and of one that failed
        self._hurried = False
        self._trouble: Verdict | None = None  # why the endpoint does not take spans now
        self._look_at = 0.0
        self._more = False  # whether there may be more dead processes than could be taken over at once
        self._head: tuple[Position, Parcel] | None = None
        self._tried: dict[Position, int] = {}
        self._doubted = False  # a fresh batch may show whether the endpoint is at fault, or the first that waits

    # For those who have something to send.

    def start(self) -> bool:
        """Have the thread run; False where it cannot (at exit, or when there are too many)."""
        with self._changed:
            if self._thread is None and not self._closing:
                thread = threading.Thread(target=self._run, name="otel-agentbus-spool", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return False
                self._thread = thread
            return self._thread is not None

    @property
    def may_try(self) -> bool:
        """Whether a fresh batch is sent directly: the endpoint is thought well, and it is not too late."""
        late = self._closing or (self._deadline is not None and time.monotonic() >= self._deadline)
        return (self.pace.well or self._doubted) and not late

    def send(self, batch: Batch, items: int) -> bool:
        """Send it now; whether it was taken. If not, it has been spooled, or counted, by then."""
        self.notice_exit()
        if not (self.may_try and self.start()):
            self._complain()
            self.keep(batch, items)
            return False
        job = Job(batch, items)
        with self._changed:
            self._doubted = False
            self._jobs.append(job)
            self._changed.notify_all()
            while not job.finished and (left := self._limit(job) - time.monotonic()) > 0:
                self._changed.wait(left)
            if job.claimed:
                return job.delivered
            job.claimed = job.finished = True
            if job.under_way:
                self.pace.failed(Verdict("unavailable"))
            else:
                self._jobs.remove(job)
        self._complaints.say("slow", "%s does not answer in time; its spans are spooled", self._sender.name)
        self.keep(batch, items)
        return False

    def _limit(self, job: Job) -> float:
        since = job.begun + GRACE_S if job.under_way else job.queued
        return min(since + self._timeout, self._deadline or float("inf"))

    def take_back(self, spans: Sequence[object]) -> bool:
        """Spool the batch of exactly these spans that somebody waits for, if there is one."""
        with self._changed:
            for job in self._jobs:
                if not job.claimed and len(job.spans) == len(spans) and all(map(is_, job.spans, spans)):
                    job.claimed = job.finished = True
                    self._changed.notify_all()
                    break
            else:
                return False
        self.keep(job.batch, job.items)
        return True

    def keep(self, batch: Batch, items: int, tries: int = 0) -> int:
        """Spool it, without trying; how many spans are kept, the others are counted."""
        position, kept = self._store.keep(batch, items)
        if position is not None and tries and len(self._tried) < _REMEMBERED:
            self._tried[position] = tries
        if position is not None and not self._closing:
            self.start()
            with self._changed:
                self._changed.notify_all()
        return kept

    def flush(self, deadline: float) -> bool:
        """Try the backlog at once; whether all that this process gave has left by the (monotonic) deadline."""
        self.notice_exit()
        self.start()
        with self._changed:
            newest = self._attempt
            self._hurried = not self._idle()
            self.pace.hurry()
            self._changed.notify_all()
            while not self._idle() and self._failed <= newest and not self._closing:
                if (left := min(deadline, self._deadline or deadline) - time.monotonic()) <= 0:
                    return False
                self._changed.wait(left)
            return self._idle()

    def _idle(self) -> bool:
        return all(job.finished for job in self._jobs) and not self._store.own_waiting

    # The end.

    def notice_exit(self) -> None:
        """See whether the interpreter is ending, in case our exit handler comes after the one that asks."""
        if self._deadline is None and exiting():
            self.exit_begins()

    def exit_begins(self) -> None:
        """From here on there are `exit_timeout` seconds for all that is still sent."""
        deadline = time.monotonic() + self._exit_timeout
        if self._changed.acquire(timeout=FREE_S):
            self._deadline = min(deadline, self._deadline or deadline)
            self._changed.notify_all()
            self._changed.release()

    def stop(self, timeout: float) -> None:
        """Let what is under way be answered, within `timeout` (s); then take it back, free the sender and spool it."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._closing = True
            self._deadline = deadline = min(deadline, self._deadline or deadline)
            self._changed.notify_all()
            self._changed.wait_for(self._at_rest, deadline - time.monotonic() - FREE_S)
        self._free()
        with self._changed:
            self._changed.wait_for(self._at_rest, FREE_S if self._thread is not None else 0)
            left = [job for job in self._jobs if not job.claimed]
            for job in left:
                job.claimed = True
            self._jobs.clear()
        for job in left:
            self._store.keep(job.batch, job.items)
            job.finished = True
        with self._changed:
            self._changed.notify_all()

    def abandon(self) -> None:
        """Nobody uses this any more: the thread ends by itself, and frees what there is to free."""
        self._closing = self._ended = True
        if self._changed.acquire(timeout=FREE_S):  # called from a garbage collection, maybe in the middle of anything
            self._changed.notify_all()
            self._changed.release()

    def _at_rest(self) -> bool:
        return all(job.finished for job in self._jobs) and not (self._resending and self.pace.well)

    def _free(self) -> None:
        freed = threading.Event()

        def free() -> None:
            with contextlib.suppress(Exception):  # somebody else's exporter
                self._sender.shutdown()
            freed.set()

        try:
            threading.Thread(target=free, name="otel-agentbus-spool-end", daemon=True).start()
        except RuntimeError:  # Python 3.12 at exit; senders promise to be quick
            free()
        freed.wait(FREE_S)

    def after_fork(self) -> None:
        """In the child: a thread of its own when one is needed, and nothing that the parent has under way."""
        ended = self._closing
        self._complaints.after_fork()
        self._store.after_fork()
        self._reset()
        self.pace = Pace()
        self._closing = ended
        if not ended:
            with contextlib.suppress(Exception):  # it will say so when it is asked to send
                self._sender.renew()

    # The thread.

    def _run(self) -> None:
        with suppressed():
            while (work := self._next()) is not None:
                try:
                    work()
                except Exception:  # noqa: BLE001 - the thread outlives whatever goes wrong with one batch
                    _log.exception("Sending spans failed")
                    self.pace.failed(Verdict("unavailable"))
                del work  # its batch shall not live until the next one comes
        if self._ended:
            self._free()
            self._store.sync()
            self._store.close()

    def _next(self) -> Callable[[], None] | None:
        """What to do next, once there is something; None at the end."""
        with self._changed:
            while True:
                if job := self._pending_job():
                    job.under_way, job.begun = True, time.monotonic()
                    return lambda: self._deliver(job)
                if self._closing:
                    return None
                now = time.monotonic()
                due = self._look_at
                if self._store.waiting:
                    due = min(due, self.pace.next_at)
                if due <= now:
                    return self._look if self._look_at <= now else self._resend
                self._changed.wait(due - now)

    def _pending_job(self) -> Job | None:
        while self._jobs and self._jobs[0].claimed:
            self._jobs.popleft()
        return self._jobs[0] if self._jobs else None

    def _look(self) -> None:
        try:
            adopted = self._store.adopt()
        finally:
            self._look_at = time.monotonic() + LOOK_S
        self._more = adopted > 0
        if adopted:
            _log.info("%s: %d spans that another process could not send are sent now", self._sender.name, adopted)

    def _deliver(self, job: Job) -> None:
        delivered = False
        try:
            delivered = self._outcome(job)
        finally:
            with self._changed:
                job.delivered, job.finished = delivered, True
                if self._jobs and self._jobs[0] is job:
                    self._jobs.popleft()
                self._changed.notify_all()

    def _outcome(self, job: Job) -> bool:
        """Send it; unless it is taken back meanwhile, account for all of it. Whether all was delivered."""
        parcel = Parcel(job.batch, job.items)
        verdict = parcel.send(self._sender, self._store.bury, lambda: job.claimed)
        self._note(verdict, parcel)
        with self._changed:
            if job.claimed:
                return False
            job.claimed = True
        self._store.book(parcel.tally)
        for piece, items in parcel.pieces:
            self.keep(piece, items, parcel.tries)
        return parcel.tally.delivered + parcel.tally.rejected == job.items

    def _resend(self) -> None:
        record = self._store.first()
        if record is None:  # it cannot be read now
            self.pace.next_at = time.monotonic() + LONGEST_S
            return
        with self._changed:
            self._resending, self._hurried = True, False
            self._attempt += 1
        delivered = False
        try:
            delivered = self._try(record)
        finally:
            with self._changed:
                self._resending = False
                if not delivered:
                    self._failed = self._attempt
                    if self._hurried:  # somebody asked for an attempt when this one was under way
                        self.pace.hurry()
                self._changed.notify_all()

    def _try(self, record: Record) -> bool:
        """Send what waits first; whether it waits no more."""
        parcel = self._parcel(record)
        verdict = parcel.send(self._sender, self._store.bury, lambda: self._closing)
        self._note(verdict, parcel)
        if verdict is not None:
            parcel.misses += 1
            self._doubted = parcel.misses >= TRIES and getattr(self._sender, "vague", False)
            self._store.again()
            return False
        self._tried.pop(record.position, None)
        self._head = None
        self._store.settle(record, parcel.tally)
        if self._more and not self._store.waiting:
            self._look_at = 0.0
        return True

    def _parcel(self, record: Record) -> Parcel:
        if self._head is None or self._head[0] != record.position:
            tries = self._tried.get(record.position, 0)
            self._head = record.position, Parcel(Batch(data=record.data), record.items, tries)
        return self._head[1]

    def _note(self, verdict: Verdict | None, parcel: Parcel) -> None:
        """What an attempt says about the endpoint, and to people."""
        name = self._sender.name
        if parcel.words is not None:
            self._complaints.say("rejected", "%s took a batch but for some of its spans: %s", name, parcel.words)
            parcel.words = None
        if verdict is None and not parcel.gave_up:
            self.pace.worked()
            if self._trouble is not None:
                _log.info("%s takes spans again", name)
            self._trouble = None
        elif not self._closing:
            self._trouble = verdict or Verdict("failed", message="it has failed on a batch for good")
            self.pace.failed(self._trouble)
            self._complain()

    def _complain(self) -> None:
        if (trouble := self._trouble) is None:
            return
        name, words = self._sender.name, trouble.message
        if trouble.kind == "unauthorised":
            sentence = "%s refuses our credentials; the spans are kept until it takes them: %s"
            self._complaints.say("unauthorised", sentence, name, words)
        else:
            sentence = "%s does not take spans now; they are kept and sent when it does: %s"
            self._complaints.say("unavailable", sentence, name, words)
