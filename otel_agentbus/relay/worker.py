"""A worker of the relay: it takes its share of the shards, and works them off in turn until it is stopped."""

from __future__ import annotations

import errno
import logging
import os
import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from opentelemetry.sdk.trace.export import SpanExporter

from ..journal.redis import LeaseLost, RedisJournal
from ..settings import Settings
from ..telemetry.senders.quiet import suppressed
from .exporting import FIRST_S, LONGEST_S, Outlet, Undelivered, outlet_for
from .leases import Leases
from .makers import Makers
from .shard import Shard
from .stored_metrics import StoredMetrics
from .worker_metrics import RelayNumbers, WorkerMetrics

_log = logging.getLogger("otel_agentbus.relay")

#: Seconds between two looks into the broker where there is nothing to do: at first, and at most.
SOON_S, LATE_S = 0.01, 0.25
#: Seconds between two reports.
REPORT_S = 10.0


@dataclass(slots=True)
class Relayed:
    """What a worker has done.

    `runs` are the trees that were over, each as often as it was. `late` counts the ends of what was over already,
    `duplicates` what was told twice.
    """

    events: int = 0
    spans: int = 0
    runs: int = 0
    #: Spans that nobody has ended, and trees in which they were because nothing was heard for AGENTBUS_RUN_TTL.
    interrupted: int = 0
    expired: int = 0
    late: int = 0
    duplicates: int = 0
    #: Events of kinds that are not known here, and records that are none; events that could not be made into a span.
    unknown: int = 0
    unreadable: int = 0
    failed: int = 0
    #: Spans that the endpoint has refused for good.
    refused: int = 0
    #: Events of the shards that the broker had to drop before this group had read them, all workers together.
    trimmed: int = 0

    def add(self, done: Counter[str]) -> None:
        """Add what was done of one shard."""
        self.events += done["events"]
        self.spans += done["spans"]
        self.runs += done["trees"]
        self.interrupted += done["interrupted"]
        self.expired += done["expired"]
        self.late += done["late"]
        self.duplicates += done["duplicates"] + done["duplicate"]
        self.unknown += done["unknown"]
        self.unreadable += done["unreadable"]
        self.refused += done["refused"]


@dataclass(frozen=True, slots=True)
class Report:
    """How a worker is: what it has done until now, and what waits."""

    done: Relayed
    seconds: float
    #: Events of all shards that the group has not acknowledged.
    lag: int
    #: Trees that are open in the shards of this worker, and how many shards these are, of how many.
    open_runs: int
    shards: int
    of: int


class Worker:
    """One worker.

    Raises:
        ConfigurationError: there is no endpoint, redis-py is not installed, or the URL is none.

    """

    def __init__(
        self,
        journal: RedisJournal,
        settings: Settings,
        *,
        group: str = "relay",
        exporters: Iterable[SpanExporter] | None = None,
        metrics: bool = False,
        lease: float = 5.0,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._metrics = metrics
        self._outlet: Outlet = outlet_for(settings, exporters)
        self.name = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(3)}"
        self._leases = Leases(self._journal, self.name, lease)
        self._makers = Makers(settings, self._journal.openings)
        self._shards: dict[int, Shard] = {}
        self._look_at = 0.0
        self._delay = 0.0
        self._away = False
        self.done = Relayed()
        self._stored: StoredMetrics | None = None
        if metrics:
            self._stored = StoredMetrics(journal, settings, name=f"{settings.broker_name}/{group}", worker=self.name)
        self._own = WorkerMetrics(settings, group, self._numbers)

    def run(self, stop: threading.Event, *, until_empty: bool, report: Callable[[Report], None] | None = None) -> None:
        """Work until somebody stops it, or until nothing is left."""
        began = time.monotonic()
        report_at = began + REPORT_S
        self._leases.start()
        if self._stored is not None:
            self._stored.start()
        with suppressed():
            while not stop.is_set():
                pause = self._round(stop)
                if pause and until_empty and self._is_empty():
                    break
                if report is not None and time.monotonic() >= report_at:
                    report_at = time.monotonic() + REPORT_S
                    self._report(report, began)
                if pause:
                    stop.wait(pause)

    def close(self) -> None:
        """Let go of the shards and of the endpoints, and say for the last time what was counted."""
        self._leases.end()
        self._outlet.close()
        self.done.failed = self._makers.failures
        try:
            self.done.trimmed = self._trimmed()
        except OSError:  # nobody can say
            pass
        if self._stored is not None:
            self._stored.close(self._settings.exit_timeout)
        self._own.close(self._settings.exit_timeout)

    def _round(self, stop: threading.Event) -> float:
        """Each shard's turn; the seconds to wait for the next round."""
        try:
            self._share()
            now_ms = self._journal.now_ms()
        except OSError as error:
            return self._failed(error)
        self._heard()
        busy = False
        for number, shard in list(self._shards.items()):
            if stop.is_set():
                break
            try:
                busy |= self._turn(number, shard, now_ms, stop)
            except OSError as error:
                self._drop(number)
                return self._failed(error)
        self._delay = 0.0 if busy else min(max(2 * self._delay, SOON_S), LATE_S)
        return self._delay

    def _turn(self, number: int, shard: Shard, now_ms: int, stop: threading.Event) -> bool:
        def go_on() -> bool:
            return not (stop.is_set() or self._leases.is_lost(number))

        if self._leases.is_lost(number):
            self._drop(number)
            return False
        most = max(self._settings.max_open_spans // len(self._shards), 1)
        try:
            done = shard.turn(now_ms, go_on, most)
        except LeaseLost:
            _log.warning("Shard %d is another worker's now", number)
            self._drop(number)
            return True
        except Undelivered:
            self._drop(number)
            return False
        except Exception as error:  # whatever is wrong with one shard, the others go on
            if isinstance(error, OSError) and error.errno != errno.EIO:  # Redis does not answer at all
                raise
            _log.exception("Shard %d cannot be worked off; it is tried again", number)
            self._drop(number)
            self._look_at = time.monotonic() + LONGEST_S
            return False
        if done is None:
            return False
        self.done.add(done)
        return True

    def _share(self) -> None:
        """Claim what is lacking, and let go of what is too much, now and then."""
        if time.monotonic() < self._look_at:
            return
        for number in self._leases.excess():
            self._drop(number)
        for lease in self._leases.claim():
            try:
                shard = Shard(lease, self._makers, self._outlet, self._settings, metrics=self._metrics)
            except OSError:
                self._leases.let_go(lease.shard)
                raise
            self._shards[lease.shard] = shard
        self._look_at = time.monotonic() + self._leases.period_s

    def _drop(self, number: int) -> None:
        """Forget a shard; what is not acknowledged of it is read again, by whoever has it next."""
        self._shards.pop(number, None)
        self._makers.taken()
        self._leases.let_go(number)
        self._look_at = 0.0

    def _failed(self, error: OSError) -> float:
        if not self._away:
            self._away = True
            why = error.strerror or error
            _log.warning("The broker %s does not answer; the relay goes on when it does: %s", self._journal.url, why)
        self._delay = min(max(2 * self._delay, FIRST_S), LONGEST_S)
        return self._delay

    def _heard(self) -> None:
        if self._away:
            self._away = False
            _log.warning("The broker %s answers again", self._journal.url)

    def _is_empty(self) -> bool:
        """Whether nothing is left to read, by whichever worker, and nothing of this one's waits for its grace."""
        if self._away or any(shard.waits for shard in self._shards.values()):
            return False
        try:
            return not self._lag()
        except OSError:
            return False

    def _lag(self) -> int:
        return sum(self._journal.shard(number).lag() for number in range(self._journal.shards))

    def _trimmed(self) -> int:
        return sum(self._journal.shard(number).trimmed() for number in range(self._journal.shards))

    def _open_runs(self) -> int:
        return sum(shard.open_runs() for shard in list(self._shards.values()))

    def _numbers(self) -> RelayNumbers:
        """How this worker is, for its own metrics; asked by the thread that collects them."""
        done = self.done
        return RelayNumbers(done.events, done.spans, self._open_runs(), self._lag(), self._trimmed())

    def _report(self, report: Callable[[Report], None], began: float) -> None:
        try:
            lag, of = self._lag(), self._journal.shards
            open_runs = self._open_runs()
        except OSError:  # said already, or soon
            return
        report(Report(self.done, time.monotonic() - began, lag, open_runs, len(self._shards), of))
