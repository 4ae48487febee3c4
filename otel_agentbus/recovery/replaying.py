"""replay(): send a journal again, whole or in part, with the ids and times that its spans had."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter

from ..errors import ConfigurationError
from ..events import Event
from ..recording import Recorded, merged, nanoseconds_of
from ..settings import Settings
from ..telemetry import names
from ..telemetry.pricing import PriceBook
from .counting import Counting
from .recovering import all_sources
from .retelling import Retelling, tree_of
from .sending import STEP, Progress, Sending, exporters_for

#: What a span says of its tree; the first that it has counts.
_TREE = (names.INVOCATION_ROOT, names.INVOCATION_PARENT, names.INVOCATION_ID)


@dataclass(slots=True)
class Replayed:
    """What a replay sent, or would have sent (`dry_run`).

    `open` is what is open in processes that are alive; it is not sent. `expired` counts the trees that ended as
    interrupted because nothing was heard of them for `AGENTBUS_RUN_TTL`. `late` counts what was told twice, or of
    what was over.
    """

    runs: int = 0
    spans: int = 0
    interrupted: int = 0
    expired: int = 0
    late: int = 0
    open: int = 0
    sources: int = 0
    events: int = 0
    unknown: int = 0
    unreadable: int = 0
    #: How many of the spans wait in the spool, and how many are there as dead letters: the endpoint has refused them.
    spooled: int = 0
    refused: int = 0
    #: Whether every span went to the endpoint, or waits in the spool for it.
    delivered: bool = True


def replay(
    journal_dir: str | Path,
    *,
    settings: Settings | None = None,
    speed: float | None = None,
    only: str | None = None,
    since: datetime | timedelta | str | None = None,
    dry_run: bool = False,
    metrics: bool = False,
    progress: Progress | None = None,
    exporters: Iterable[SpanExporter] | None = None,
    stop: threading.Event | None = None,
) -> Replayed:
    """Send the spans of a journal, finished or not, to the endpoint of the settings; the journal stays as it is.

    Args:
        journal_dir: the journal.
        settings: made by hand instead of read from the environment.
        speed: 1.0 takes the time that it took, 10.0 a tenth of it; None goes as fast as possible.
        only: the root invocation id of the one tree to send, or how it begins.
        since: only trees of which something happened since then; a time (local, where it has no zone), or how
            long ago.
        dry_run: send nothing, count only.
        metrics: count everything again on the endpoint of the metrics, where it was counted once already.
        progress: told from time to time how many events are done, and how many there are.
        exporters: where to send, instead of where the settings say; they are not shut down.
        stop: ends the replay early; what is open then is not sent.

    Raises:
        ConfigurationError: there is no endpoint, the journal cannot be read, `only` names no tree or several, `since`
            or `speed` cannot be read.

    """
    settings = settings or Settings()
    if speed is not None and not speed > 0:
        raise ConfigurationError(f"The speed is {speed}: it must be more than 0; 1 is as fast as it happened.")
    found = all_sources(journal_dir)
    trees, total = _selection(found, only, since, counted=progress is not None)
    made = () if dry_run else exporters_for(settings) if exporters is None else exporters
    sending = Sending(made)
    player = _Player(found, settings, sending, trees, metrics and not dry_run)
    try:
        player.play(speed, progress, total, stop or threading.Event())
        sending.settle(settings.exit_timeout)
        player.close()
    finally:
        if exporters is None:
            sending.close()
    told = player.told
    told.spooled, told.refused, told.delivered = sending.spooled, sending.refused, not sending.lost
    return told


def _selection(
    found: list[Recorded], only: str | None, since: datetime | timedelta | str | None, *, counted: bool
) -> tuple[set[str] | None, int]:
    """The trees to send, None for all of them, and the number of events where somebody wants to know it."""
    if only is None and since is None:
        return None, sum(source.number() for source in found) if counted else 0
    try:
        since_ns = 0 if since is None else nanoseconds_of(since)
    except ValueError as error:
        raise ConfigurationError(f"The beginning of the replay cannot be read: {error}.") from None
    trees, total = set(), 0
    for source in found:
        for told in source.records():
            total += 1
            tree = tree_of(told.event)
            if tree is not None and (told.event.time_ns or 0) >= since_ns:
                trees.add(tree)
    if only is None:
        return trees, total
    named = {only} & trees or {tree for tree in trees if tree.startswith(only)}
    if not named:
        raise ConfigurationError(f"There is no run {only!r} in the journal{'' if since is None else ' since then'}.")
    if len(named) > 1:
        examples = ", ".join(sorted(named)[:3])
        raise ConfigurationError(f"{len(named)} runs begin with {only!r}: say more of the id ({examples} ...).")
    return named, total


class _Player:
    """Tells the events of all sources again, by their time."""

    def __init__(
        self, found: list[Recorded], settings: Settings, sending: Sending, trees: set[str] | None, metrics: bool
    ) -> None:
        self._found = found
        self._unreadable = sum(source.unreadable for source in found)
        self._settings = settings
        self._prices = PriceBook(settings.prices)
        self._sending = sending
        self._trees = trees
        self._counting = Counting(settings) if metrics else None
        self._retellings: dict[str, Retelling] = {}
        self._heard: OrderedDict[str, int] = OrderedDict()
        self._ttl_ns = round(settings.run_ttl * 1e9)
        self._now_ns = 0
        self._traces: set[int] = set()
        self.told = Replayed()

    def play(self, speed: float | None, progress: Progress | None, total: int, stop: threading.Event) -> None:
        """Tell everything, at this speed, until somebody stops it."""
        for source, told in merged(self._found):
            if stop.is_set():
                break
            if speed is not None:
                self._wait(told.event, speed, stop)
            self._retelling(source)(told)
            self._hear(told.event)
            self._sending.step()
            self.told.events += 1
            if progress is not None and self.told.events % STEP == 0:
                progress(min(self.told.events, total), total)
        if progress is not None:
            progress(min(self.told.events, total), total)
        self._end(stopped=stop.is_set())

    def close(self) -> None:
        """Count the metrics to their end."""
        if self._counting is not None:
            self._counting.close()

    def _retelling(self, source: Recorded) -> Retelling:
        retelling = self._retellings.get(source.name)
        if retelling is None:
            also: Callable[[Event], Any] | None = None
            if self._counting is not None:
                also = self._counting.bridge_for(source)
            retelling = Retelling(source, self._settings, self._prices, self._take, also)
            self._retellings[source.name] = retelling
        return retelling

    def _take(self, span: ReadableSpan) -> None:
        attributes = span.attributes or {}
        if span.context is None or not (self._trees is None or self._tree_of(span) in self._trees):
            return
        self._traces.add(span.context.trace_id)
        self.told.spans += 1
        self.told.interrupted += attributes.get(names.OUTCOME) == "interrupted"
        self._sending(span)

    def _tree_of(self, span: ReadableSpan) -> object:
        attributes = span.attributes or {}
        return next((attributes[name] for name in _TREE if name in attributes), None)

    def _wait(self, event: Event, speed: float, stop: threading.Event) -> None:
        """Let the time pass that passed before this event; what has ended is sent meanwhile."""
        time_ns = event.time_ns or 0
        if 0 < self._now_ns < time_ns:
            self._sending.flush()
            stop.wait(min((time_ns - self._now_ns) / 1e9 / speed, threading.TIMEOUT_MAX))

    def _hear(self, event: Event) -> None:
        """Note that the event's tree lives, and end those of which nothing was heard for too long."""
        time_ns = event.time_ns or 0
        self._now_ns = max(self._now_ns, time_ns)
        tree = tree_of(event)
        if tree is not None:
            self._heard[tree] = max(self._now_ns, self._heard.pop(tree, 0))
        self._expire(self._now_ns)

    def _expire(self, now_ns: int) -> None:
        while self._heard:
            tree, last_ns = next(iter(self._heard.items()))
            if now_ns - last_ns < self._ttl_ns:
                return
            del self._heard[tree]
            before = self.told.interrupted
            for retelling in self._retellings.values():
                retelling.interrupt(tree)
            self.told.expired += self.told.interrupted > before

    def _end(self, *, stopped: bool) -> None:
        """What is open in processes that are gone was interrupted; of one that is alive, nobody knows yet."""
        told = self.told
        told.unreadable = sum(source.unreadable for source in self._found) - self._unreadable
        for source in self._found:
            retelling = self._retellings.get(source.name)
            if retelling is None:
                continue
            if stopped or source.alive:
                retelling.flush()
            else:
                retelling.close()
            counts = retelling.counts()
            retelling.release()
            told.sources += 1
            told.unknown += counts["unknown"]
            told.late += counts["duplicate"]
            told.open += counts["open"]
        told.runs = len(self._traces)
