"""The way out of the process: what is ours of it is flushed and shut down here, in a thread that an endpoint may hold.

The SDK's flush and shutdown take no notice of their timeouts. So they happen in a thread of their own, for which the
caller waits as long as it likes, while the pump goes on. The thread is there from the beginning: at exit none can be
started.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING

from ..values import SIGNALS
from .providers import Pipeline
from .pump import remaining

if TYPE_CHECKING:
    from .export import Delivery

_log = logging.getLogger("otel_agentbus.outlet")

_Job = Callable[[], object]

#: How long an exporter may take for a batch; what it has had for longer without a word is lost.
STUCK_S = 60.0


class Outlet:
    """A pipeline, and the thread that waits for its endpoint."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._gone = 0
        self._full_since: float | None = None
        self._written_off = 0

    def has_room(self, ended: int) -> bool:
        """Whether our exporter is less than a full queue behind the spans that have ended."""
        size = self.pipeline.settings.bsp_max_queue_size
        if ended - self._gone - self._written_off < size or not self.pipeline.owns_traces:
            return True
        gone, now = self._count_gone(), time.monotonic()
        if gone != self._gone or self._full_since is None:
            self._gone, self._full_since = gone, now
        elif now - self._full_since > STUCK_S:  # nobody takes them out of that queue any more
            self._written_off = ended - gone
        if ended - gone - self._written_off >= size:
            return False
        self._full_since = None
        return True

    def _count_gone(self) -> int:
        """How many spans our slowest exporter has delivered or lost."""
        return min((d.delivered + d.failed + d.rejected for d in self._deliveries()), default=0)

    def _deliveries(self) -> list[Delivery]:
        return [delivery for delivery in self.pipeline.deliveries if delivery.signal == "traces"]

    def spans(self, ended: int) -> dict[str, int]:
        """What has become of the spans that have ended; of an application's own pipeline nothing is known."""
        exported = sum(delivery.delivered for delivery in self._deliveries())
        lost = sum(delivery.failed + delivery.rejected for delivery in self._deliveries()) + self._written_off
        waiting = max(ended - self._count_gone() - self._written_off, 0) if self.pipeline.owns_traces else 0
        return {"ended": ended, "exported": exported, "lost": lost, "waiting": waiting}

    @property
    def is_ours(self) -> bool:
        """Whether there is anything to flush and shut down: an application's own providers are its own."""
        return self.pipeline.owns_traces or self.pipeline.owns_metrics

    def start(self) -> None:
        """Start the thread, where there will be something to wait for."""
        if self.is_ours and self._thread is None:
            self._thread = threading.Thread(target=self._work, name="otel-agentbus-outlet", daemon=True)
            self._thread.start()

    def after_fork(self, build: Callable[[], Pipeline]) -> None:
        """In the child: exporters of its own, and a thread of its own."""
        self.pipeline.abandon()
        try:
            self.pipeline = build()
        except Exception as error:  # noqa: BLE001 - a fork must not fail because a certificate file is gone
            _log.warning("Nothing is exported by this forked process: %s", error)
            self.pipeline = Pipeline(
                self.pipeline.settings, description=dict.fromkeys(SIGNALS, f"not exported: {error}")
            )
        self._jobs = SimpleQueue()
        self._thread = None
        self._gone, self._full_since, self._written_off = 0, None, 0
        self.start()

    def flush(self, deadline: float) -> bool:
        """Export what is queued; whether that was done, without loss, by the (monotonic) deadline."""
        if not self.is_ours:
            return True
        flushed: list[bool] = []
        return self._run(lambda: flushed.append(self.pipeline.force_flush(_left(deadline))), deadline) and flushed == [
            True
        ]

    def close(self, deadline: float) -> bool:
        """Export what is queued, then shut down; what takes longer is cut. Whether all went out."""
        if not self.is_ours:
            return True
        flushed: list[bool] = []

        def work() -> None:
            flushed.append(self.pipeline.force_flush(_left(deadline)))
            self.pipeline.shutdown(_left(deadline))

        if not self._run(work, deadline):
            self.pipeline.cut()
        self._jobs.put(None)
        return flushed == [True]

    def _run(self, job: _Job, deadline: float) -> bool:
        if self._thread is None or not self._thread.is_alive():
            return False
        done = threading.Event()

        def work() -> None:
            try:
                job()
            finally:
                done.set()

        self._jobs.put(work)
        return done.wait(remaining(deadline))

    def _work(self) -> None:
        jobs = self._jobs
        while (job := jobs.get()) is not None:
            try:
                job()
            except BaseException:  # noqa: BLE001 - the thread outlives whatever a provider raises
                _log.exception("Flushing or shutting down failed")


def _left(deadline: float) -> float:
    return max(remaining(deadline), 0.01)
