"""The numbers of our own pipeline as metrics: what was emitted, exported, dropped and why, observed at collection."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from threading import RLock
from typing import TYPE_CHECKING, Any

from opentelemetry.metrics import CallbackOptions, Observation

from . import instruments, names
from .attributes import mapping, number, text, whole

if TYPE_CHECKING:
    from .series import Instruments

#: What tells how a pipeline is: `{"events.dropped": 3}`, or nested, with the reasons of a number if it has any:
#: `{"events": {"dropped": {"ring_full": 3}}}`.
Health = Callable[[], Mapping[str, Any]]

#: How many reasons one number may have; further ones are counted together.
REASONS = 50
#: How long the name of a budget may be.
NAME_LENGTH = 128
OTHER = "other"
_OPEN = "spans.open"
_USED = "budget.used"
#: How long one collection may take, in which each pipeline is asked once.
COLLECTION_S = 0.1


class Vitals:
    """The pipelines that export through one meter provider, seen as one; the counts of those that closed stay."""

    def __init__(self, made: Instruments) -> None:
        self._lock = RLock()
        self._living: list[Health] = []
        self._past: dict[str, Counter[str | None]] = {}
        self._look_anew()
        for key, metric in instruments.HEALTH.items():
            made.observe(metric, self._observer(key))
        made.observe(instruments.SPANS_OPEN, self._observer(_OPEN))
        made.observe(instruments.BUDGET_USED, self._observe_budgets)

    def _look_anew(self) -> None:
        self._asked: set[str] = set()
        self._said: list[Mapping[str, Any]] | None = None
        self._said_at = 0.0

    def _all_say(self, key: str) -> tuple[list[Mapping[str, Any]], Counter[str | None]]:
        """What each pipeline says, and what those that left have counted under this key.

        Pipelines are asked once for all instruments: one that asks again begins another collection.
        """
        with self._lock:
            if key in self._asked or time.monotonic() - self._said_at > COLLECTION_S:
                self._look_anew()
            asked, said, living = self._asked, self._said, list(self._living)
            past = Counter(self._past.get(key, {}))
            asked.add(key)
        if said is None:
            at, said = time.monotonic(), [health() for health in living]  # without the lock: they have their own
            with self._lock:
                if self._asked is asked:  # nobody has come, left or begun another collection meanwhile
                    self._said, self._said_at = said, at
        return said, past

    def watch(self, health: Health) -> None:
        """Ask this one whenever metrics are collected."""
        with self._lock:
            self._living.append(health)
            self._look_anew()

    def leave(self, health: Health) -> None:
        """Ask it for the last time, and keep what it has counted, so that no counter falls."""
        with self._lock:
            if health not in self._living:
                return
            self._living.remove(health)
            self._look_anew()
            try:
                said = health()
            except Exception:  # noqa: BLE001 - a pipeline that cannot say how it was must still be able to close
                return
            for key in instruments.HEALTH:
                self._past.setdefault(key, Counter()).update(dict(_numbers(said, key)))

    def forget(self) -> None:
        """A lock of its own, in the child of a fork, and nothing of what the parent's closed pipelines had counted."""
        self._lock = RLock()
        self._past = {}
        self._look_anew()

    def _observe_budgets(self, _options: CallbackOptions) -> list[Observation]:
        """The share of each budget that is used, in the pipeline in which it is highest."""
        highest: dict[str, float] = {}
        for said in self._all_say(_USED)[0]:
            used = mapping(mapping(said.get("budget")).get("used"))
            for name, value in islice(used.items(), REASONS):
                budget, share = text(name, NAME_LENGTH), _share(value)
                if budget is not None and share is not None:
                    highest[budget] = max(share, highest.get(budget, 0.0))
        return [Observation(share, {names.BUDGET: budget}) for budget, share in highest.items()]

    def _observer(self, key: str) -> Callable[[CallbackOptions], list[Observation]]:
        def observe(_options: CallbackOptions) -> list[Observation]:
            said, sums = self._all_say(key)
            for numbers in said:
                sums.update(dict(_numbers(numbers, key)))
            return [Observation(value, _reason(reason)) for reason, value in _bounded(sums).items()]

        return observe


def _share(value: object) -> float | None:
    share = number(value)
    return share if share is not None and share >= 0 else None


def _reason(reason: str | None) -> dict[str, str]:
    return {} if reason is None else {names.REASON: reason}


def _numbers(health: Mapping[str, Any], key: str) -> Iterator[tuple[str | None, int]]:
    """What health says under this key, by reason where it tells reasons."""
    group, _, part = key.partition(".")
    value = health.get(key, mapping(health.get(group)).get(part))
    for reason, told in mapping(value).items() if isinstance(value, Mapping) else ((None, value),):
        counted = whole(told)
        if counted is not None:
            yield reason, counted


def _bounded(sums: Counter[str | None]) -> Mapping[str | None, int]:
    if len(sums) <= REASONS:
        return sums
    shown: Counter[str | None] = Counter(dict(list(sums.items())[:REASONS]))
    shown[OTHER] += sum(list(sums.values())[REASONS:])
    return shown


__all__ = ["Health", "Vitals"]
