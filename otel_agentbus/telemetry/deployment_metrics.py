"""The metrics of deployments, paired by their `deploy_id`: what DORA's four measures are computed from.

Deployment frequency, change failure rate and the percentiles of the times are queries over these counters and
histograms (the dashboards have them), so that they outlive a restart. A start whose end never came, and a failure from
which nobody recovered, stay open for as long as this process lives.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeAlias

from otel_agentbus.events import (
    DeploymentCompleted,
    DeploymentFailed,
    DeploymentStarted,
    Event,
    RecoveryCompleted,
)

from . import instruments, names
from .measures import Measures, elapsed
from .series import Instruments, Names, Pending, Tally

OPEN_DEPLOYMENTS = 1_000

#: When a commit was made: seconds since the epoch or a datetime with a time zone; None where that is not known.
#: Asked in the background, once for each deployment that completed; it may take its time and may fail.
CommitTimes: TypeAlias = Callable[[str], "datetime | float | None"]

#: What waits for its end, by its deploy_id, with the time of its beginning.
_Waiting: TypeAlias = "Pending[str, int | None]"

_log = logging.getLogger(__name__)


class DeploymentMetrics:
    """Counts deployments and recoveries, and times them."""

    def __init__(self, made: Instruments, measures: Measures, commit_times: CommitTimes | None = None) -> None:
        self._measures = measures
        self._commit_times = commit_times
        self._none = made.dimensions().of()
        self._statuses = made.dimensions(Names(names.DEPLOYMENT_STATUS, 2))
        self._ended = made.counter(instruments.DEPLOYMENTS)
        self._open = made.counter(instruments.DEPLOYMENT_OPEN)
        self._broken = made.counter(instruments.RECOVERY_OPEN)
        self._durations = [made.histogram(instruments.DEPLOYMENT_DURATION)]
        self._recoveries = [made.histogram(instruments.RECOVERY_TIME)]
        self._lead_times = [made.histogram(instruments.DEPLOYMENT_LEAD_TIME)]
        self._deployments: _Waiting = Pending(OPEN_DEPLOYMENTS, lambda _: self._given_up(self._open))
        self._outages: _Waiting = Pending(OPEN_DEPLOYMENTS, lambda _: self._given_up(self._broken))
        self.handlers: dict[type[Event], Callable[[Any], None]] = {
            DeploymentStarted: self._started,
            DeploymentCompleted: self._completed,
            DeploymentFailed: self._failed,
            RecoveryCompleted: self._recovered,
        }

    def forget(self) -> None:
        """Start from nothing, in the child of a fork."""
        self._deployments.forget()
        self._outages.forget()

    def close(self) -> None:
        """Nothing more is told: what is open is nobody's any more."""
        for waiting, level in ((self._deployments, self._open), (self._outages, self._broken)):
            for _ in waiting.drain():
                level.add(self._none, -1)

    def _given_up(self, level: Tally) -> None:
        level.add(self._none, -1)
        self._measures.discard("open_too_long")

    def _started(self, event: DeploymentStarted) -> None:
        self._begin(self._deployments, self._open, event)

    def _begin(self, waiting: _Waiting, level: Tally, event: DeploymentStarted | DeploymentFailed) -> None:
        again, _ = waiting.pop(event.deploy_id)  # what begins again begins now
        waiting.put(event.deploy_id, event.time_ns)
        if not again:
            level.add(self._none)

    def _took(self, waiting: _Waiting, level: Tally, event: Event, deploy_id: str) -> float | None:
        found, start_ns = waiting.pop(deploy_id)
        if found:
            level.add(self._none, -1)
        return elapsed(start_ns, event.time_ns)

    def _end(self, event: DeploymentCompleted | DeploymentFailed, status: str) -> None:
        labels = self._statuses.of(status)
        self._ended.add(labels)
        took = self._took(self._deployments, self._open, event, event.deploy_id)
        if took is not None:
            self._measures.seconds(self._durations, took, labels.attributes, None)

    def _completed(self, event: DeploymentCompleted) -> None:
        self._end(event, "succeeded")
        committed_ns = self._committed_ns(event.commit_sha)
        lead = elapsed(committed_ns, event.time_ns)
        if lead is not None:
            self._measures.seconds(self._lead_times, lead, {}, None)

    def _failed(self, event: DeploymentFailed) -> None:
        self._end(event, "failed")
        self._begin(self._outages, self._broken, event)

    def _recovered(self, event: RecoveryCompleted) -> None:
        took = self._took(self._outages, self._broken, event, event.deploy_id)
        if took is not None:
            self._measures.seconds(self._recoveries, took, {}, None)

    def _committed_ns(self, commit_sha: str) -> int | None:
        if self._commit_times is None or not commit_sha:
            return None
        try:
            made = self._commit_times(commit_sha)
            if made is None:
                return None
            seconds = made.timestamp() if isinstance(made, datetime) else float(made)
            return int(seconds * 1e9)
        except Exception:  # noqa: BLE001 - the resolver is the application's: its failure costs one measurement
            self._measures.discard("commit_time")
            _log.warning("The time of a commit could not be found out", exc_info=True)
            return None
