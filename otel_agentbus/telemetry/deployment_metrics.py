"""The metrics of deployments, paired by their `deploy_id`: what DORA's four measures are computed from.

Deployment frequency, change failure rate and the percentiles of the times are queries over these counters and
histograms (the dashboards have them), so that they outlive a restart. A start whose end never came, and a failure from
which nobody recovered, stay open for as long as this process lives. What is told twice counts once, and what is told in
the wrong order is paired all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import RLock
from typing import Any, TypeAlias

from otel_agentbus.events import (
    DeploymentCompleted,
    DeploymentFailed,
    DeploymentStarted,
    Event,
    RecoveryCompleted,
)

from . import instruments, names
from .commits import Commits, CommitTimes
from .exemplars import NOWHERE
from .measures import Measures, elapsed
from .recent import Recent
from .series import Instruments, Names, Pending, Tally
from .tellings import id_of

OPEN_DEPLOYMENTS = 1_000
#: How long a reader that collects waits for commits whose times are being asked for.
SETTLE_S = 0.1

#: What waits for its end, by its deploy_id, with the time of its beginning.
_Waiting: TypeAlias = "Pending[object, int | None]"

_STATUSES = ("succeeded", "failed")


@dataclass(slots=True)
class _Past:
    """An end or a recovery that was told."""

    time_ns: int | None
    #: Whether its beginning was told, too, so that it was timed.
    timed: bool

    def follows(self, time_ns: int | None) -> bool:
        """Whether it came after this, so that this is the beginning of it, told late or again."""
        return self.time_ns is not None and time_ns is not None and time_ns <= self.time_ns


class DeploymentMetrics:
    """Counts deployments and recoveries, and times them."""

    def __init__(self, made: Instruments, measures: Measures, commit_times: CommitTimes | None = None) -> None:
        self._measures = measures
        self._commits = None if commit_times is None else Commits(commit_times, self._unknown_commit)
        self._instruments = made
        self._none = made.dimensions().of()
        self._statuses = made.dimensions(Names(names.DEPLOYMENT_STATUS, len(_STATUSES)))
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
        self._renew()
        if self._commits is not None:
            made.settling.append(self._settle)

    def _renew(self) -> None:
        self._lock = RLock()
        self._ends: Recent[tuple[object, str], _Past] = Recent(2 * OPEN_DEPLOYMENTS)
        self._repairs: Recent[object, _Past] = Recent(2 * OPEN_DEPLOYMENTS)

    def forget(self) -> None:
        """Start from nothing, in the child of a fork."""
        self._renew()
        self._deployments.forget()
        self._outages.forget()
        if self._commits is not None:
            self._commits.forget()

    def settle(self, timeout: float) -> bool:
        """Wait for the times of commits that are being asked for; whether all are known."""
        return self._commits is None or self._commits.settle(timeout)

    def close(self) -> None:
        """Nothing more is told: what is open is nobody's any more."""
        for waiting, level in ((self._deployments, self._open), (self._outages, self._broken)):
            for _ in waiting.drain():
                level.add(self._none, -1)
        if self._settle in self._instruments.settling:
            self._instruments.settling.remove(self._settle)

    def _settle(self) -> None:
        self.settle(SETTLE_S)

    def _given_up(self, level: Tally) -> None:
        level.add(self._none, -1)
        self._measures.discard("open_too_long")

    # -- deployments --------------------------------------------------------------------------------------------------

    def _started(self, event: DeploymentStarted) -> None:
        deploy_id = _key(event)
        with self._lock:
            for status in _STATUSES:
                end = self._ends.get((deploy_id, status))
                if end is not None and end.follows(event.time_ns):
                    self._late(self._durations, end, event.time_ns, self._statuses.of(status).attributes)
                    return
            again, _ = self._deployments.pop(deploy_id)  # what begins again begins now
            self._deployments.put(deploy_id, event.time_ns)
            if not again:
                self._open.add(self._none)

    def _end(self, event: DeploymentCompleted | DeploymentFailed, status: str) -> bool:
        """Count the end; False where it was told before. What completed, and turned out to fail, counts as both."""
        deploy_id = _key(event)
        key = (deploy_id, status)
        told = self._ends.get(key)
        if told is not None and told.time_ns is not None and told.time_ns == event.time_ns:
            return False
        found, start_ns = self._deployments.pop(deploy_id)
        if told is not None and not found:
            return False
        self._ends.put(key, _Past(event.time_ns, found))
        labels = self._statuses.of(status)
        self._ended.add(labels)
        if found:
            self._open.add(self._none, -1)
            self._record(self._durations, elapsed(start_ns, event.time_ns), labels.attributes)
        return True

    def _completed(self, event: DeploymentCompleted) -> None:
        with self._lock:
            if not self._end(event, "succeeded"):
                return
        if self._commits is None or not event.commit_sha:
            return

        def led(committed_ns: int) -> None:
            lead = elapsed(committed_ns, event.time_ns)
            if lead is None and event.time_ns is not None:  # a commit of the future: a clock or a unit is wrong
                self._unknown_commit()
            self._record(self._lead_times, lead, {})

        self._commits.ask(event.commit_sha, led)

    def _unknown_commit(self) -> None:
        self._measures.discard("commit_time")

    # -- recoveries ---------------------------------------------------------------------------------------------------

    def _failed(self, event: DeploymentFailed) -> None:
        deploy_id = _key(event)
        with self._lock:
            if not self._end(event, "failed"):
                return
            repair = self._repairs.get(deploy_id)
            if repair is not None and repair.follows(event.time_ns):
                self._late(self._recoveries, repair, event.time_ns, {})
            elif self._outages.put(deploy_id, event.time_ns):  # one that fails again is broken since the first time
                self._broken.add(self._none)

    def _recovered(self, event: RecoveryCompleted) -> None:
        deploy_id = _key(event)
        with self._lock:
            found, failed_ns = self._outages.pop(deploy_id)
            if not found and self._repairs.get(deploy_id) is not None:
                return
            self._repairs.put(deploy_id, _Past(event.time_ns, found))
            if found:
                self._broken.add(self._none, -1)
                self._record(self._recoveries, elapsed(failed_ns, event.time_ns), {})

    # -- times --------------------------------------------------------------------------------------------------------

    def _late(self, histograms: list[Any], past: _Past, time_ns: int | None, attributes: Mapping[str, str]) -> None:
        """The beginning of what is over: told after its end, so that it can be timed now, or told again."""
        if past.timed:
            return
        past.timed = True
        self._record(histograms, elapsed(time_ns, past.time_ns), attributes)

    def _record(self, histograms: list[Any], seconds: float | None, attributes: Mapping[str, str]) -> None:
        if seconds is not None:
            self._measures.seconds(histograms, seconds, attributes, NOWHERE)


def _key(event: DeploymentStarted | DeploymentCompleted | DeploymentFailed | RecoveryCompleted) -> object:
    """The deployment; a long id is remembered by its digest."""
    return id_of(event.deploy_id) if isinstance(event.deploy_id, str) else event.deploy_id


__all__ = ["CommitTimes", "DeploymentMetrics"]
