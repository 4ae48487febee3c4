"""What is kept of the events of one bus: in memory for the background, and before that in the journal, if any."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from .events import Event
from .journal import SegmentJournal
from .recording import Opening, Recorder
from .settings import Settings
from .telemetry.outlet import Outlet
from .telemetry.pump import PAUSE_S, Pump

_log = logging.getLogger("otel_agentbus.keeping")

#: How long an event waits to be written in batches, in seconds; half of what a SIGKILL may cost.
WRITE_EVERY_S: Final = 0.02
#: Events that are written at once: no more than a slice of time, which an event loop would feel.
GROUP: Final = 32
#: How often the journal is told what needs no recovery any more, in seconds.
MARK_EVERY_S: Final = 1.0


class Keeper:
    """Takes each event from the router: without the content that may not be kept, into the journal, then into the ring.

    With `AGENTBUS_JOURNAL_SYNC=event` it is written by the thread that emits it, before any other handler hears of it;
    else by a thread of its own, every 20 ms. Either way nothing is made of an event before it is written, so that there
    is no span of which the journal does not know.
    """

    def __init__(
        self, settings: Settings, apply: Callable[[Event], Event], pump: Pump, describe: Callable[[], Opening]
    ) -> None:
        self._apply = apply
        self._pump = pump
        self._recorder: Recorder | None = None
        self._at_once = settings.journal_sync == "event"
        self._candidate: str | None = None
        self._leaving: tuple[str, tuple[int, ...]] | None = None
        self._marked_at = 0.0
        #: Events that wait to be written in batches.
        self._collected: deque[Event] = deque()
        self._renew()
        if settings.journal is not None and not settings.sdk_disabled:
            describe()  # now: what describes a process cannot be found out any more when the interpreter ends
            journal = SegmentJournal(
                settings.journal,
                max_bytes=settings.journal_max_bytes,
                max_age=settings.journal_max_age,
                keep=True,
                opening=lambda: describe().write(),
            )
            self._recorder = Recorder(journal, sync=settings.journal_sync)

    def _renew(self) -> None:
        self._writing = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    # -- in ------------------------------------------------------------------------------------------------------------

    def way_in(self) -> Callable[[Event], None]:
        """The one way to the sinks: content is scrubbed, rendered or removed here, before it waits anywhere."""
        apply, pump, recorder = self._apply, self._pump, self._recorder
        ring, size, make_room = pump.ring, pump.size, pump.make_room
        if recorder is not None and not self._at_once:
            ring, make_room = self._collected, self._make_room

        def keep(event: Event) -> None:
            if len(ring) >= size:
                make_room()
            ring.append(apply(event))

        if recorder is None or not self._at_once:
            return keep
        record = recorder

        def write_and_keep(event: Event) -> None:
            event = apply(event)
            record(event)
            if len(ring) >= size:
                make_room()
            ring.append(event)

        return write_and_keep

    def _make_room(self) -> None:
        try:
            self._collected.popleft()
            self._pump.dropped += 1
        except IndexError:  # taken meanwhile
            pass

    @property
    def writes(self) -> bool:
        """Whether there is a journal."""
        return self._recorder is not None

    @property
    def waiting(self) -> int:
        """How many events wait to be written, and for the background."""
        return len(self._collected) + len(self._pump.ring)

    # -- writing in batches --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread that writes, where one is needed."""
        if self._recorder is not None and not self._at_once and self._thread is None:
            self._thread = threading.Thread(target=self._run, name="otel-agentbus-journal", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        stop = self._stop
        while not stop.is_set():
            try:
                more = self._write_group()
            except BaseException:  # noqa: BLE001 - the thread outlives whatever happens in it
                _log.exception("Writing the journal failed")
                more = False
            stop.wait(PAUSE_S if more else WRITE_EVERY_S)

    def _write_group(self) -> bool:
        """Write some events, then hand them on; whether there are more."""
        recorder, collected = self._recorder, self._collected
        assert recorder is not None
        with self._writing:
            group: list[Event] = []
            while collected and len(group) < GROUP:
                try:
                    group.append(collected.popleft())
                except IndexError:  # the bound has dropped it meanwhile
                    break
            try:
                for event in group:
                    recorder(event)
                recorder.flush()
            finally:
                for event in group:
                    self._pump.keep(event)
        return bool(collected)

    def flush(self) -> str | None:
        """Write what is collected, and hand it on; gives the position of the last event in the journal, if any."""
        if self._recorder is None:
            return None
        if not self._at_once:
            for _ in range(len(self._collected) // GROUP + 1):  # not for ever, where others go on emitting
                self._write_group()
        return self._recorder.position

    def mark(self, position: str | None) -> None:
        """What was written up to here has been delivered, if nothing of it was lost on its way."""
        if self._recorder is not None and position is not None and not (self._pump.dropped or self._pump.left):
            self._recorder.mark(position)

    # -- marks and the end ---------------------------------------------------------------------------------------------

    def idle(self, outlet: Outlet) -> None:
        """Mark what was written a while ago once nothing that was made of it is in memory only.

        A busy program's queue of spans is never empty, so we wait for those that had ended then, and no others. Where
        an event or a span was lost, nothing is marked any more: a recovery can send it.
        """
        recorder, now = self._recorder, time.monotonic()
        if recorder is None or recorder.position is None:
            return
        if self._leaving is not None and outlet.is_settled(self._leaving[1]):
            self.mark(self._leaving[0])
            self._leaving = None
        if self._leaving is not None or now - self._marked_at < MARK_EVERY_S:
            return
        self._marked_at = now
        if self._candidate is not None and not self._pump.ring:  # its spans have ended by now, or are open
            checkpoint = outlet.checkpoint()
            self._leaving = None if checkpoint is None else (self._candidate, checkpoint)
            self._candidate = None
        else:
            self._candidate = self._candidate or recorder.position

    def close(self, *, finished: bool) -> None:
        """The end: where everything was judged and has left, this source never needs to be recovered."""
        self._stop.set()
        if self._recorder is None:
            return
        self.flush()
        if finished:
            self._recorder.finish()
        else:
            self._recorder.close()

    def after_fork(self) -> None:
        """In the child: what is collected is the parent's, and so is its thread."""
        self._collected.clear()
        self._candidate = self._leaving = None
        self._renew()
        self.start()

    def health(self) -> dict[str, Any]:
        """How many events were written, wait, and could not be written, by reason."""
        if self._recorder is None:
            return {}
        told = self._recorder.health()
        return {**told, "waiting": told["waiting"] + len(self._collected)}


__all__ = ["Keeper"]
