"""What is kept of the events of one bus: in memory for the background, and in the journal, if there is to be one."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from .events import Event
from .journal import SegmentJournal
from .recording import Opening, Recorder
from .settings import Settings
from .telemetry.pump import Pump

#: How often the journal is told what needs no recovery any more, in seconds.
MARK_EVERY_S: Final = 1.0


class Keeper:
    """Takes each event from the router: without the content that may not be kept, into the journal and the ring.

    With `AGENTBUS_JOURNAL_SYNC=event` it is written by the thread that emits it, before any other handler hears of it;
    else by the background.
    """

    def __init__(
        self, settings: Settings, apply: Callable[[Event], Event], pump: Pump, describe: Callable[[], Opening]
    ) -> None:
        self._apply = apply
        self._pump = pump
        self._recorder: Recorder | None = None
        self._at_once = settings.journal_sync == "event"
        self._candidate: str | None = None
        self._marked_at = 0.0
        if settings.journal is not None and not settings.sdk_disabled:
            journal = SegmentJournal(
                settings.journal,
                max_bytes=settings.journal_max_bytes,
                keep=True,
                opening=lambda: describe().write(),
            )
            self._recorder = Recorder(journal, sync=settings.journal_sync)

    def way_in(self) -> Callable[[Event], None]:
        """The one way to the sinks: content is scrubbed, rendered or removed here, before it waits anywhere."""
        apply, ring, size, make_room = self._apply, self._pump.ring, self._pump.size, self._pump.make_room
        recorder = self._recorder if self._at_once else None

        def keep(event: Event) -> None:
            if len(ring) >= size:
                make_room()
            ring.append(apply(event))

        if recorder is None:
            return keep
        record = recorder

        def write_and_keep(event: Event) -> None:
            event = apply(event)
            record(event)
            if len(ring) >= size:
                make_room()
            ring.append(event)

        return write_and_keep

    def record(self, event: Event) -> None:
        """Write it down in the background, where that is how it is to be."""
        if self._recorder is not None and not self._at_once:
            self._recorder(event)

    def idle(self, is_settled: Callable[[], bool]) -> None:
        """Write what is collected. What was written a while ago needs no recovery if nothing is in memory only."""
        recorder = self._recorder
        if recorder is None:
            return
        recorder.flush()
        now = time.monotonic()
        if now - self._marked_at < MARK_EVERY_S or recorder.position is None:
            return
        self._marked_at = now
        if self._candidate is not None and not self._pump.ring and is_settled():
            recorder.mark(self._candidate)  # all of it had been handed on when it became the candidate
        self._candidate = recorder.position

    def flush(self) -> None:
        """Write what is collected."""
        if self._recorder is not None:
            self._recorder.flush()

    def close(self, *, finished: bool) -> None:
        """The end: where everything was judged and has left, this source never needs to be recovered."""
        if self._recorder is None:
            return
        if finished:
            self._recorder.finish()
        else:
            self._recorder.close()

    def health(self) -> dict[str, Any]:
        """How many events were written, and how many could not be, and why."""
        return {} if self._recorder is None else self._recorder.health()


__all__ = ["Keeper"]
