"""`otel-agentbus relay`: a worker that makes spans of the events in a broker, and a look at how the broker is."""

from __future__ import annotations

import gc
import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from otel_agentbus.errors import ConfigurationError
from otel_agentbus.settings import Settings
from otel_agentbus.values import masked

from .sentences import counted, fail

if TYPE_CHECKING:
    from otel_agentbus.journal.redis import RedisJournal
    from otel_agentbus.relay import Relayed, Report
    from otel_agentbus.relay.status import ShardStatus

    from .output import Output


def relay(
    broker: Annotated[
        str | None, typer.Option("--from", metavar="URL", help="The broker; else that of AGENTBUS_BROKER.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Workers of one group share the work; each group reads everything. Unset: relay.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="How the keys in the broker begin; else as AGENTBUS_BROKER_NAME says.")
    ] = None,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Count the metrics here, for emitters that have no meters.")
    ] = False,
    until_empty: Annotated[bool, typer.Option("--until-empty", help="End when nothing is left to read.")] = False,
    lease: Annotated[
        float, typer.Option(min=0.5, help="Seconds after which others take over the work of a worker that is gone.")
    ] = 5.0,
    status: Annotated[bool, typer.Option("--status", help="Show how the broker is, and end.")] = False,
    forgotten: Annotated[
        str | None,
        typer.Option("--forget-group", metavar="NAME", help="Forget a group that nobody works for any more, and end."),
    ] = None,
) -> None:
    """Make spans of the events in a broker, and send them: one of any number of workers, until SIGTERM or Ctrl-C. An
    event is acknowledged when the endpoint has its spans. Exit code 0: what was read is done; 2: a setting is wrong, or
    the broker cannot be asked for its status.
    """
    try:
        settings = Settings(broker_name=name)
        url = broker or settings.broker
        if url is None:
            raise ConfigurationError("Which broker? Name it: --from redis://localhost:6379/0, or set AGENTBUS_BROKER.")
        if forgotten is not None:
            _forget(url, settings, forgotten)
        elif status:
            _show_status(url, settings, group)
        else:
            _work(url, settings, group or "relay", metrics=metrics, until_empty=until_empty, lease=lease)
    except ConfigurationError as error:
        raise fail(str(error), 2) from None


def _work(url: str, settings: Settings, group: str, *, metrics: bool, until_empty: bool, lease: float) -> None:
    from otel_agentbus.relay import relay as work

    _collect_seldom()
    _say_warnings()
    if settings.exports_traces:  # else there is something more important to say
        typer.echo(f"Relaying from {masked(url)} as a worker of the group {group}; Ctrl-C ends it.", err=True)
    with _stopped_by_signals() as stop:
        done = work(
            url,
            group=group,
            settings=settings,
            metrics=metrics,
            lease=lease,
            until_empty=until_empty,
            stop=stop,
            report=_Progress(),
        )
    typer.echo(_said(done))


def _collect_seldom() -> None:
    """Have the garbage collector look past what is loaded by now, and seldom at the rest: for this process only."""
    gc.freeze()  # a worker makes many objects and no cycles of them to speak of: measured, 6 % less CPU
    gc.set_threshold(10_000, 20, 20)


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """What SIGTERM and Ctrl-C set; the second one ends the process at once."""
    stop = threading.Event()

    def on_signal(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say_warnings() -> None:
    """Have what goes wrong said on standard error, with its time: a worker runs for long."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log = logging.getLogger("otel_agentbus")
    log.addHandler(handler)
    log.propagate = False


class _Progress:
    """A line on standard error for each report: what was done since the one before, and what waits."""

    def __init__(self) -> None:
        self._events = self._spans = 0
        self._seconds = 0.0
        self._said = ""

    def __call__(self, report: Report) -> None:
        seconds = report.seconds - self._seconds
        events = (report.done.events - self._events) / seconds
        spans = (report.done.spans - self._spans) / seconds
        self._events, self._spans, self._seconds = report.done.events, report.done.spans, report.seconds
        shards = f"{report.shards} of {counted(report.of, 'shard')}"
        said = (
            f"{events:,.0f} events/s, {spans:,.0f} spans/s, {report.lag:,} waiting, "
            f"{counted(report.open_runs, 'run')} open, {shards}"
        )
        if said != self._said:  # where nothing happens, once is enough
            self._said = said
            typer.echo(said, err=True)


def _said(done: Relayed) -> str:
    spans = f"{counted(done.spans, 'span')} of {counted(done.runs, 'run')} sent"
    said = [f"{spans}, {done.interrupted:,} of them interrupted; {counted(done.events, 'event')}."]
    lines = (
        (done.expired, "run", "ended as interrupted after AGENTBUS_RUN_TTL."),
        (done.late, "end", "of what was over already: left out."),
        (done.duplicates, "event", "told twice: left out."),
        (done.refused, "span", "that the endpoint refused for good: see --status."),
        (done.trimmed, "event", "dropped by the broker, which was full, before any worker of this group read them."),
        (done.unknown, "event", "of kinds that this version does not know."),
        (done.unreadable, "record", "that could not be read."),
        (done.failed, "event", "that could not be made into a span: see the log."),
    )
    return "\n".join([*said, *(f"{counted(number, what)} {rest}" for number, what, rest in lines if number)])


def _show_status(url: str, settings: Settings, group: str | None) -> None:
    from otel_agentbus.cli.output import Output, quietly_ended
    from otel_agentbus.journal.redis import RedisJournal
    from otel_agentbus.relay.status import status_of

    def journal_of(group: str) -> RedisJournal:
        return RedisJournal(url, name=settings.broker_name, shards=settings.broker_shards, group=group)

    journal = journal_of(group or "relay")
    output = Output()
    with _asked(journal):
        groups = [group] if group else journal.groups() or ["relay"]
        found = {each: status_of(journal_of(each)) for each in groups}
    with quietly_ended():
        for each, shards in found.items():
            _show_group(each, shards, output)


@contextmanager
def _asked(journal: RedisJournal) -> Iterator[None]:
    """What is asked in here is answered, or there is a sentence."""
    try:
        yield
    except OSError as error:
        why = (error.strerror or str(error)).rstrip(".")
        raise ConfigurationError(f"The broker {journal.url} does not answer: {why}.") from None


def _forget(url: str, settings: Settings, group: str) -> None:
    from otel_agentbus.journal.redis import RedisJournal

    journal = RedisJournal(url, name=settings.broker_name, shards=settings.broker_shards, group=group)
    with _asked(journal):
        if group not in journal.groups():
            raise ConfigurationError(f"The broker {journal.url} knows no group {group}: --status shows those it knows.")
        left = [number for number in range(journal.shards) if not journal.shard(number).forget()]
    if left:
        owned = counted(len(left), "shard")
        raise ConfigurationError(f"Workers of the group {group} own {owned}: end them, then forget it.")
    typer.echo(f"The group {group} is forgotten: what it had not read is held back for it no longer.")


def _show_group(group: str, shards: list[ShardStatus], output: Output) -> None:
    from otel_agentbus.telemetry.columns import Column, Count, NumberTable, latency

    def cells(count: Count) -> list[tuple[str, ...]]:
        rows = [
            (count(s.lag), latency(s.oldest), count(s.open_runs), count(s.trimmed), count(s.refused)) for s in shards
        ]
        oldest = max((s.oldest for s in shards if s.oldest is not None), default=None)
        sums = (sum(s.open_runs for s in shards), sum(s.trimmed for s in shards), sum(s.refused for s in shards))
        return [*rows, (count(sum(s.lag for s in shards)), latency(oldest), *map(count, sums))]

    columns = (
        Column("waiting", spare=0),
        Column("oldest", spare=1),
        Column("open runs", "open", spare=1),
        Column("trimmed", spare=2),
        Column("refused", spare=3),
    )
    labels = [(str(s.shard), s.owner or "nobody") for s in shards]
    output.sentence(f"Group {group}")
    output.block(NumberTable(("shard", "owner"), labels, columns, cells, output.width, output.encoding).drawn())
