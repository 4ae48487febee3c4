"""The way out of the process: what is ours of it is flushed and shut down here, within the time that there is.

Our span processors keep to their time. The SDK's meter provider takes no notice of its timeouts: it is flushed and
shut down in a thread of its own, for which the caller waits as long as it likes. The thread is there from the
beginning: at exit none can be started.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from ..values import SIGNALS
from .providers import Pipeline
from .pump import remaining

_log = logging.getLogger("otel_agentbus.outlet")

_Job = Callable[[], object]

#: The share of the time at the end in which events become spans; to deliver or to spool those takes as long again.
BRIDGES_SHARE = 0.5
#: The share of what is left then that is the spans'; the metrics, which tell of them, go last.
SPANS_SHARE = 0.85


class Outlet:
    """A pipeline, and the thread that waits for its metrics' endpoint."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def is_ours(self) -> bool:
        """Whether there is anything to flush and shut down: an application's own providers are its own."""
        return self.pipeline.owns_traces or self.pipeline.owns_metrics

    def accounts(self) -> list[dict[str, Any]]:
        """What became of the spans, for each exporter of ours; of an application's own pipeline nothing is known."""
        return [way.account() for way in self.pipeline.ways]

    @property
    def lost(self) -> int:
        """How many spans were lost for good by exporters of ours, or are in memory only."""
        return sum(sum(account["dropped"].values()) + account["waiting"] for account in self.accounts())

    @property
    def dropped(self) -> int:
        """How many spans were lost for good, without those that only wait."""
        return sum(sum(account["dropped"].values()) for account in self.accounts())

    def checkpoint(self) -> tuple[int, ...] | None:
        """How far each way out has come, for `is_settled`; None where the ways are not ours, and nothing is known."""
        return tuple(way.processor.position for way in self.pipeline.ways) if self.pipeline.owns_traces else None

    def is_settled(self, checkpoint: tuple[int, ...]) -> bool:
        """Whether no span that had ended then is in memory only: all were delivered, or are on disk; none was lost."""
        ways = self.pipeline.ways
        done = len(ways) == len(checkpoint) and all(
            way.processor.settled(position) for way, position in zip(ways, checkpoint, strict=True)
        )
        return done and not self.dropped

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
        self.start()

    def flush(self, deadline: float) -> bool:
        """Export what is queued; whether all was delivered by the (monotonic) deadline."""
        if not self.is_ours:
            return True
        metrics = self._begin(lambda: self.pipeline.flush_metrics(_left(deadline)))
        spans = self.pipeline.flush_spans(deadline)
        return metrics(deadline) and spans

    def close(self, deadline: float) -> bool:
        """Export what is queued, then shut down; what takes longer is on disk, or cut. Whether all was delivered."""
        if not self.is_ours:
            return True
        share = SPANS_SHARE if self.pipeline.owns_metrics else 1.0
        spans = self.pipeline.close_spans(time.monotonic() + remaining(deadline) * share)

        def end() -> bool:
            flushed = self.pipeline.flush_metrics(_left(deadline))
            self.pipeline.shut_down(_left(deadline))
            return flushed

        metrics = self._begin(end)(deadline)
        if not metrics:
            self.pipeline.cut()
        self._jobs.put(None)
        return spans and metrics

    def _begin(self, job: Callable[[], bool]) -> Callable[[float], bool]:
        """Have the thread do this; gives what waits for it until a deadline, and tells whether it did and went well."""
        if self._thread is None or not self._thread.is_alive():
            return lambda _: False
        done, outcome = threading.Event(), [False]

        def work() -> None:
            try:
                outcome[0] = job()
            finally:
                done.set()

        self._jobs.put(work)
        return lambda deadline: done.wait(remaining(deadline)) and outcome[0]

    def _work(self) -> None:
        jobs = self._jobs
        while (job := jobs.get()) is not None:
            try:
                job()
            except BaseException:  # noqa: BLE001 - the thread outlives whatever a provider raises
                _log.exception("Flushing or shutting down failed")


def _left(deadline: float) -> float:
    return max(remaining(deadline), 0.01)
