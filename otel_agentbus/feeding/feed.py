"""The Feed: writes what the pump hands it to the broker, and keeps what the broker does not take.

It waits in memory, beyond that on disk, from where the next process with the same broker sends it if this one cannot.
"""

from __future__ import annotations

import errno
import logging
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b
from typing import Any, Final

from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, detach, set_value

from ..errors import ConfigurationError
from ..events import Event
from ..journal.outbox import Load, Outbox, Parcel
from ..journal.redis import RedisJournal
from ..recording import Opening
from ..settings import Settings
from ..telemetry.pump import PAUSE_S, remaining
from .line import BATCH, BATCH_BYTES, Line

_log = logging.getLogger("otel_agentbus.feeding")

#: How long an event waits for others to be sent with, in seconds.
EVERY_S: Final = 0.02
#: Seconds that the broker may take for an answer.
TIMEOUT_S: Final = 2.0
#: Seconds between two attempts where the broker does not take anything: at first, and in the end.
RETRY_S: Final = (0.05, 5.0)
#: How often is looked for what processes have left that are gone, in seconds.
ADOPT_S: Final = 30.0
#: The share of the time at the end that is left for the disk.
DISK_SHARE: Final = 0.3
_QUIET_S: Final = 60.0

_REASONS = {
    errno.ENOSPC: "memory full",
    errno.EACCES: "not allowed",
    errno.EROFS: "read only",
    errno.ETIMEDOUT: "timeout",
    errno.ECONNREFUSED: "unreachable",
    errno.ECONNRESET: "unreachable",
}


class Feed:
    """Takes each event from the pump and has it written to the broker; never blocks, and never raises.

    Args:
        settings: where the broker is, how much may wait, and where on disk.
        describe: the opening of this process, for those who read; asked for now and then.

    Raises:
        ConfigurationError: there is no broker in the settings, or no way to speak to it.

    """

    def __init__(self, settings: Settings, describe: Callable[[], Opening]) -> None:
        if settings.broker is None:
            raise ConfigurationError("AGENTBUS_BROKER is unset: set it to a URL such as redis://localhost:6379/0.")
        self._broker = settings.broker
        self._settings = settings
        self._describe = describe
        # Now: what describes a process cannot be found out any more when the interpreter ends.
        self._described = describe()
        self._renew()

    def _renew(self) -> None:
        settings = self._settings
        self._journal = RedisJournal(
            self._broker,
            name=settings.broker_name,
            shards=settings.broker_shards,
            max_events=settings.broker_max_events,
            opening=self._opening,
            timeout=TIMEOUT_S,
        )
        self._line = Line(settings.queue_size)
        self._outbox = self._new_outbox()
        self._load: Load | None = None
        self._kept = 0
        self._introduced: str | None = None
        self._working, self._disk = threading.RLock(), threading.RLock()
        self._wake, self._turned = threading.Event(), threading.Condition()
        self._stopping = self._ending = self._over = False
        self._thread: threading.Thread | None = None
        #: How many events the broker has taken, those from the disk included.
        self.written = 0
        #: How often it did not, by reason.
        self.failures: Counter[str] = Counter()
        self._failing = self._attempts = 0
        self._failed_attempt = 0
        self._retry_at = 0.0
        self._adopted_at = -math.inf
        self._warned: float | None = None

    def _opening(self) -> tuple[str, bytes]:
        try:
            self._described = self._describe()
        except Exception:  # noqa: BLE001 - a provider may be anybody's; what it said before is better than nothing
            _log.warning("This process cannot be described anew", exc_info=True)
        return self._described.source, self._described.write()

    def _new_outbox(self) -> Outbox | None:
        settings = self._settings
        if settings.spool is None:
            return None
        who = re.sub(r"//[^/@]*@", "//", self._broker)  # with a new password it is the same broker
        told = f"{who}\n{settings.broker_name}".encode("utf-8", "backslashreplace")
        return Outbox(
            settings.spool / "events" / blake2b(told, digest_size=8).hexdigest(),  # apart from the spools of spans
            max_bytes=settings.spool_max_bytes,
            max_age=settings.spool_max_age,
            opening=self._opening,
        )

    def __call__(self, event: Event) -> None:
        """Take an event."""
        self._line.put(event)

    # -- the thread ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread that writes."""
        if self._thread is None and not self._stopping:
            self._thread = threading.Thread(target=self._run, name="otel-agentbus-broker", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))  # what we say to the broker is in nobody's trace
        while not self._stopping:
            try:
                more = self._turn()
            except BaseException:  # noqa: BLE001 - the thread outlives whatever happens in it
                _log.exception("Feeding the broker failed")
                more = False
            with self._turned:
                self._turned.notify_all()
            if not more:
                self._wake.wait(EVERY_S)
                self._wake.clear()

    def _turn(self) -> bool:
        """Take what there is, and send some of it; whether there is more to do at once."""
        with self._working:
            self._line.collect()
            if self._ending:
                self._line.drain()
            if time.monotonic() >= self._retry_at:
                self._send()
            if self._failing:
                self._spill(self._settings.queue_size // 2)
            return self._line.crowded or (not self._failing and (self._line.ready or self.kept > 0))

    # -- to the broker -------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """Send some of what is on disk, which is older, and else of what is in memory."""
        self._attempts += 1
        try:
            if self._send_kept():
                self._send_waiting()
        except Exception as error:  # noqa: BLE001 - whatever it is, the events wait
            self._failed(error)

    def _send_kept(self) -> bool:
        """Send some of what is on disk; whether nothing is left there."""
        outbox = self._outbox
        if outbox is None:
            return True
        try:
            if time.monotonic() - self._adopted_at >= ADOPT_S:
                self._adopted_at = time.monotonic()
                outbox.adopt()
            load = self._load = self._load or (outbox.take(BATCH, BATCH_BYTES) if outbox.pending else None)
        except OSError as error:  # what is in memory need not wait for the disk
            self._warn("What was kept for the broker cannot be read", error)
            return True
        if load is None:
            return True
        if load.opening is not None and load.opening[0] != self._introduced:
            self._journal.introduce(*load.opening)
            self._introduced = load.opening[0]
        try:
            self._write(load.parcels)
        except OSError as error:
            left = getattr(error, "left", None)
            if left is not None:  # what others of the shards have taken is not told them again and again
                load.parcels = [load.parcels[index] for index in left]
            raise
        outbox.done(load)
        self.written += load.number
        self._load = None
        return not outbox.pending

    def _send_waiting(self) -> None:
        batch = self._line.batch()
        if not batch:
            return
        try:
            self._write(batch)
        except OSError as error:
            left = getattr(error, "left", None)
            if left is not None:
                self.written += self._line.gone(batch, [batch[index] for index in left])
            raise
        self.written += self._line.gone(batch)

    def _write(self, parcels: list[Parcel]) -> None:
        """Write these.

        Raises:
            OSError: the broker did not take all of them.

        """
        keys, sources, datas = zip(*parcels, strict=True)
        self._journal.append_many(datas, keys, sources)
        if self._failing:
            _log.info("The broker %s takes events again", self._journal.url)
        self._failing = 0

    def _failed(self, error: Exception) -> None:
        reason = _REASONS.get(getattr(error, "errno", None) or 0, "error")
        self.failures[reason] += 1
        first, longest = RETRY_S
        self._retry_at = time.monotonic() + min(first * 2 ** min(self._failing, 16), longest)
        self._failing += 1
        self._failed_attempt = self._attempts
        self._warn(f"The broker {self._journal.url} does not take events ({reason}); they wait", error)

    def _warn(self, sentence: str, error: Exception) -> None:
        now = time.monotonic()
        if self._warned is None or now - self._warned > _QUIET_S:
            self._warned = now
            _log.warning("%s: %s", sentence, error)

    # -- to the disk ---------------------------------------------------------------------------------------------------

    def _spill(self, most: int, until: float = math.inf) -> None:
        """Put the oldest of what is in memory on disk, until no more than so many wait, or it is too late."""
        if self._outbox is None:
            return
        with self._disk:
            while self._line.waiting > most and self._line.ready and time.monotonic() < until:
                batch = self._line.batch()
                try:
                    self._outbox.keep(batch)
                except OSError as error:
                    self._warn("What waits for the broker cannot be kept on disk", error)
                    return
                self._line.gone(batch)

    @property
    def kept(self) -> int:
        """How many events wait on disk, those of processes that are gone included."""
        if self._over or self._outbox is None:
            return self._kept
        try:
            return self._outbox.pending
        except OSError:
            return 0

    # -- life ----------------------------------------------------------------------------------------------------------

    def flush(self, deadline: float) -> bool:
        """Have what was given until now written by then (`time.monotonic()`); whether the broker has all of it.

        A broker that was away before, and still is, is not waited for.
        """
        given, lost = self._line.given, self._line.dropped.total()
        away, attempts = self._failing > 0, self._attempts
        self._retry_at = 0.0
        while not (done := self._line.is_through(given) and not self.kept) and time.monotonic() < deadline:
            if away and self._failed_attempt > attempts:
                break
            if self._ending and self._retry_at > time.monotonic():
                break  # the disk is there
            self._step(deadline)
        return done and self._line.dropped.total() == lost

    def _step(self, deadline: float) -> None:
        """Let the thread work, or work in its place where there is none."""
        thread = self._thread
        if thread is not None and thread.is_alive() and thread is not threading.current_thread():
            with self._turned:
                self._wake.set()
                self._turned.wait(min(remaining(deadline), EVERY_S))
            return
        token = attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            if not self._turn():
                time.sleep(min(remaining(deadline), PAUSE_S))
        finally:
            detach(token)

    def close(self, deadline: float) -> bool:
        """Write what there is by then (`time.monotonic()`), put the rest on disk; whether the broker has all of it."""
        if self._over:
            return True
        self._ending = True
        now = time.monotonic()
        done = self.flush(now + (deadline - now) * (1 - DISK_SHARE))
        self._stopping = True  # the thread may wait for an answer: what it sends is put on disk, too
        self._wake.set()
        self._line.close()
        self._put_away(deadline)
        self._kept, self._over = self.kept, True
        self._let_go()
        return done

    def _put_away(self, deadline: float) -> None:
        """Put on disk what is in memory, as far as there is time."""
        while self._line.crowded and time.monotonic() < deadline:
            self._line.collect()
        self._line.drain()
        self._spill(0, deadline)
        self._line.drop("no_spool" if self._outbox is None else "exit_timeout")

    def _let_go(self) -> None:
        try:
            if self._outbox is not None:
                self._outbox.close()
        except OSError as error:
            self._warn("What was kept for the broker could not be closed", error)

    def after_fork(self) -> None:
        """In the child: nothing of the parent's; a connection and a thread of its own."""
        if not self._over:
            self._renew()
            self.start()

    # -- how it is -----------------------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """How many events were given, and taken over from processes that are gone; and what became of all these.

        They are with the broker, wait in memory or on disk, were doubles, or were lost, by reason.
        """
        dropped = Counter(self._line.dropped)
        if self._outbox is not None:
            dropped.update({f"outbox_{reason}": number for reason, number in self._outbox.dropped.items()})
        return {
            "broker": self._journal.url,
            "given": self._line.given,
            "adopted": 0 if self._outbox is None else self._outbox.adopted,
            "written": self.written,
            "waiting": self._line.waiting,
            "kept": self.kept,
            "duplicates": self._line.duplicates,
            "dropped": dict(dropped),
            "failures": dict(self.failures),
        }
