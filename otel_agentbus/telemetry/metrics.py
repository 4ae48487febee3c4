"""From events to metrics: a plain callable that counts what agents did, used and cost, under names of bounded number.

Each event is counted once, where it was emitted, whatever the sampler says of its spans. No id, path or free text is
ever an attribute, and what cannot be a count or a duration is not recorded but counted as discarded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from opentelemetry.metrics import MeterProvider

from otel_agentbus.events import (
    CacheHit,
    CacheMiss,
    ChannelMessage,
    DomainEvent,
    Error,
    Event,
    HeartbeatTick,
)

from . import instruments, names
from .attributes import number
from .call_metrics import CallMetrics
from .conventions import Conventions
from .deployment_metrics import CommitTimes, DeploymentMetrics
from .exemplars import Exemplars
from .ids import Ids
from .ledger import Ledger, Prices
from .measures import Measures
from .names import Flavour
from .run_metrics import RunMetrics
from .series import Instruments, Names, instruments_of
from .usage import count
from .vitals import Health

#: The domain event with which a budget says that a threshold was reached.
BUDGET_EVENT = "budget_threshold_hit"

_log = logging.getLogger(__name__)


class MetricsBridge:
    """Counts events on the instruments of a meter provider; thread-safe, and never raises.

    It may be subscribed to a router as any handler, or be fed by the pump. Model calls are told apart and priced by a
    ledger of its own, with these `prices`, or have passed another one before (`entered`). `health` gives the numbers of
    the pipeline itself, which are observed whenever metrics are collected; `commit_times` tells when a commit was made.
    With the `ids` of the spans, histograms have exemplars. Of runs that are open, `open_runs` are remembered.
    """

    def __init__(
        self,
        meter_provider: MeterProvider | Instruments,
        *,
        conventions: Flavour = "1.41",
        prices: Prices | None = None,
        entered: bool = False,
        ids: Ids | None = None,
        health: Health | None = None,
        commit_times: CommitTimes | None = None,
        open_runs: int | None = None,
    ) -> None:
        flavour = Conventions(conventions).flavour
        self._ledger = None if entered else Ledger(prices)
        self._instruments = made = instruments_of(meter_provider)
        self._measures = measures = Measures(made)
        #: What links measurements to their spans.
        self.exemplars = exemplars = Exemplars(ids)
        self._calls = CallMetrics(made, measures, exemplars, flavour)
        self._runs = RunMetrics(made, measures, exemplars, flavour, open_runs)
        self._deployments = DeploymentMetrics(made, measures, commit_times)
        self._failed = False
        self._handlers: dict[type[Event], Callable[[Any], None]] = {
            **self._calls.handlers,
            **self._runs.handlers,
            **self._deployments.handlers,
            **self._moments(made),
        }
        self._health = health
        if health is not None:
            made.vitals.watch(health)

    @property
    def overflowed(self) -> int:
        """How many measurements had names beyond the bounds and were counted under `other`."""
        return self._instruments.overflowed

    def __call__(self, event: Event) -> None:
        """Count one event."""
        if self._ledger is not None:
            event = self._ledger.enter(event)
        handler = self._handlers.get(event.__class__)
        if handler is None:
            return
        try:
            handler(event)
        except Exception:  # noqa: BLE001 - a measurement that fails must not reach the agent nor stop the pump
            self._measures.discard("failure")
            if not self._failed:
                self._failed = True
                _log.warning("An event could not be counted; further failures are only counted", exc_info=True)

    def settle(self, timeout: float) -> bool:
        """Wait so many seconds for what is still being found out (the times of commits); whether all is."""
        return self._deployments.settle(timeout)

    def close(self) -> None:
        """Give up the runs that are open: nobody will tell of their end. What was counted stays."""
        if self._health is not None:
            self._instruments.vitals.leave(self._health)
        self._runs.close()
        self._deployments.close()

    def forget(self) -> None:
        """Start from nothing, in the child of a fork: what the parent counted, the parent exports."""
        if self._ledger is not None:
            self._ledger.forget()
        for part in (self._calls, self._runs, self._deployments):
            part.forget()
        self._instruments.forget()

    # -- what happens at one moment -----------------------------------------------------------------------------------

    def _moments(self, made: Instruments) -> dict[type[Event], Callable[[Any], None]]:
        none = made.dimensions().of()
        components = made.dimensions(Names(names.COMPONENT))
        channels = made.dimensions(Names(names.CHANNEL), Names(names.DIRECTION, 16))
        caches = made.dimensions(Names(names.CACHE_TYPE, 32))
        budgets = made.dimensions(Names(names.BUDGET, 50), Names(names.THRESHOLD, 16))
        hits, saved = made.counter(instruments.CACHE_HITS), made.counter(instruments.CACHE_SAVED)
        misses, errors = made.counter(instruments.CACHE_MISSES), made.counter(instruments.ERRORS)
        messages, heartbeats = made.counter(instruments.CHANNEL_MESSAGES), made.counter(instruments.HEARTBEATS)
        thresholds = made.counter(instruments.BUDGET_THRESHOLDS)

        def cache_hit(event: CacheHit) -> None:
            labels = caches.of(event.cache_type)
            hits.add(labels)
            tokens = count(event.tokens_saved)
            if tokens is None:
                self._measures.discard("invalid")
            else:
                saved.add(labels, tokens)
            self._calls.saved(event, self._runs.model_of(event))

        def domain_event(event: DomainEvent) -> None:
            if event.name == BUDGET_EVENT:
                share = number(event.data.get("threshold"))
                thresholds.add(budgets.of(event.data.get("budget"), None if share is None else f"{share:g}"))

        return {
            CacheHit: cache_hit,
            CacheMiss: lambda event: misses.add(caches.of(event.cache_type)),
            Error: lambda event: errors.add(components.of(event.component)),
            ChannelMessage: lambda event: messages.add(channels.of(event.channel, event.direction)),
            HeartbeatTick: lambda _event: heartbeats.add(none),
            DomainEvent: domain_event,
        }
