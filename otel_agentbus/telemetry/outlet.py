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

from .providers import Pipeline

_log = logging.getLogger("otel_agentbus.outlet")

_Job = Callable[[], object]


class Outlet:
    """A pipeline, and the thread that waits for its endpoint."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

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
        self.pipeline = build()
        self._jobs = SimpleQueue()
        self._thread = None
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
        return done.wait(max(deadline - time.monotonic(), 0))

    def _work(self) -> None:
        jobs = self._jobs
        while (job := jobs.get()) is not None:
            try:
                job()
            except BaseException:  # noqa: BLE001 - the thread outlives whatever a provider raises
                _log.exception("Flushing or shutting down failed")


def _left(deadline: float) -> float:
    return max(deadline - time.monotonic(), 0.01)
