"""connect() and Bus: the only place where the parts meet."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, Self

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import Tracer, TracerProvider

from . import adapters, contract
from .accounting import Accounting
from .attachment import process
from .bridges import Bridges
from .budgets import Budget, BudgetCheckResult, checked_budgets
from .errors import ConfigurationError, UnreadableEvent
from .events import Event
from .invocation import Frame
from .jobs import flushing
from .keeping import Keeper
from .receipt import receipt, vital_numbers
from .recovery import opening_of
from .recovery.background import recover_in_background
from .router import OnError
from .settings import Settings
from .stamping import Stamp, StampingRouter
from .telemetry.aliases import conventions_of
from .telemetry.content import ContentPolicy, Redact
from .telemetry.current import CallerTracing
from .telemetry.deployment_metrics import CommitTimes
from .telemetry.ids import Ids
from .telemetry.live import LiveTracing
from .telemetry.outlet import BRIDGES_SHARE, Outlet
from .telemetry.providers import Pipeline, build
from .telemetry.pump import LONGEST_S, Pump, remaining
from .telemetry.spans import SpanBridge
from .telemetry.summary import SummaryData
from .telemetry.writer import begin_with

if TYPE_CHECKING:
    from .feeding import Feed

_log = logging.getLogger("otel_agentbus.bus")

#: The share of the time at the end by which the broker has what it takes; what it does not take is on disk then.
FEED_SHARE = 0.75


class Bus:
    """The observer of an application: events in by its router, spans and metrics out in the background.

    Made by `connect()`. As a context manager it closes itself. Whatever happens in it never reaches the agent.
    """

    def __init__(
        self,
        settings: Settings,
        pipeline: Pipeline,
        accounting: Accounting,
        *,
        redact: Redact | None,
        on_error: OnError | None,
        commit_times: CommitTimes | None = None,
    ) -> None:
        self.settings = settings
        self.counts: Counter[str] = Counter()
        self.uses = 0
        #: Whether it was begun for a program that knows nothing of it; should that connect by itself, it gets its own.
        self.gives_way = False
        self._arguments: tuple[object, ...] | None = None
        self._closed = False
        self._lock = threading.RLock()
        self._build: Callable[[], Pipeline] | None = None
        self._instrumented: adapters.Instrumented | None = None
        self._outlet = Outlet(pipeline)
        #: Whom a model or tool call asks before it begins: budgets that may refuse it.
        self.gate: Callable[[Any], None] | None = None
        self._conventions = conventions_of(settings.conventions, settings.aliases)
        self._ids = Ids(settings.id_key.get_secret_value())
        self._bridges = Bridges(
            settings,
            self._outlet,
            self._ids,
            go_live=self._go_live,
            health=lambda: vital_numbers(self.health()),
            commit_times=commit_times,
        )
        #: What of a content may leave the process.
        self.content_policy = ContentPolicy(
            capture=settings.capture_content,
            max_bytes=settings.content_max_bytes,
            redact=redact,
            error_text=settings.error_text,
        )
        caller = CallerTracing(self._find_tracer, self._ids, begin_with(self._conventions), settings.baggage)
        #: How blocks speak OpenTelemetry; None where telemetry is switched off.
        self.tracing: CallerTracing | None = None if settings.sdk_disabled else caller
        self._stamp = Stamp(caller.decide)
        #: The name of this bus in this process; a child of a fork has another.
        self.source = self._stamp.source
        #: The price list, the ledger of model calls and the summary.
        self.accounting = accounting
        self.gate = self.accounting.budgets.gate
        describe = lambda: opening_of(self.source, self._outlet.pipeline.described(), settings)  # noqa: E731 - of now
        #: The way to a broker, if there is one.
        self._feed: Feed | None = None
        if settings.broker is not None and not settings.sdk_disabled:
            from .feeding import Feed  # it comes with the whole journal of the broker

            self._feed = Feed(settings, describe)
        sinks = (self._to_metrics, self._to_spans, *(() if self._feed is None else (self._feed,)))
        self._pump = Pump(settings.queue_size, sinks, self._idle, prepare=self.accounting.enter)
        self._keeper = Keeper(settings, self.content_policy.apply, self._pump, describe)
        self.router = StampingRouter(self._stamp, self._is_valid if settings.validate_events else None, on_error)
        #: Stamp and hand out one event: time, lineage, source and number where unset. Never raises, never blocks.
        self.emit: Callable[[Event], None] = self.router.emit
        if settings.flush_on_root_end:
            self.emit = flushing(self.router.emit, self)
        #: Who listens: see `Router`.
        self.subscribe, self.on, self.once = self.router.subscribe, self.router.on, self.router.once
        self._bridges.wire()

    # -- the way in ----------------------------------------------------------------------------------------------------

    def emit_async(self, event: Event) -> Awaitable[None]:
        """As `emit`; awaiting it waits for this event's async handlers."""
        return self.router.emit_async(event)

    def publish(self, name: str, data: dict[str, Any] | None = None) -> None:
        """Emit an event of the application's own."""
        self.router.publish(name, data or {})

    def check_budget(self, **what: Any) -> BudgetCheckResult:
        """Whether so much more may be spent here: `usd`, `tokens`, and where, if not by the run that is current.

        Where: `agent`, `model`, `provider`, `channel`, `conversation_id`, `root_invocation_id`. What is known of the
        costs decides, and the states say of how many calls it is not. ValueError: an amount is none.
        """
        return self.accounting.budgets.check(**what)

    def ambient(self) -> Frame | None:
        """The living block whose span is current here, where somebody carried the OpenTelemetry context only."""
        return None if self.tracing is None else self.tracing.ambient()

    def _is_valid(self, event: Event) -> bool:
        try:
            contract.validate(event)
        except UnreadableEvent as error:
            self.counts["invalid"] += 1
            _log.warning("An invalid event is dropped: %s", error)
            return False
        return True

    # -- the way out ---------------------------------------------------------------------------------------------------

    def _go_live(self, tracer: Tracer) -> None:
        """Blocks make their spans themselves: this tracer takes no ids of ours."""
        ours = (self._ids, self._conventions, self.content_policy, self.source)
        self.tracing = LiveTracing(tracer, *ours, before=self.tracing, account=self.accounting.quote)

    def _find_tracer(self) -> Tracer | None:
        """Our tracer; asked at the top of each tree, because an application may set its provider after connecting."""
        if self._bridges.tracer is None:
            self._resolve()
        return self._bridges.tracer

    def _resolve(self) -> None:
        with self._lock:
            if not self._closed and self._outlet.pipeline.resolve():
                self._bridges.wire()
                process.close_at_exit(self)  # to run before the provider's own exit

    def _to_spans(self, event: Event) -> None:
        if self._bridges.tracer is None:
            self._resolve()
        self._bridges.span(event)

    def _to_metrics(self, event: Event) -> None:
        if self._bridges.metrics is None:
            self._resolve()
        self._bridges.count(event)

    def _idle(self) -> None:
        self._bridges.tick()
        self._keeper.idle(self._outlet)

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin: listen to everything, start the background."""
        providers = self._outlet.pipeline.tracer_provider, self._outlet.pipeline.meter_provider
        pumped = not self.settings.sdk_disabled
        self.accounting.listen(self.router, observed=any(providers), pumped=pumped)  # budgets hold without telemetry
        if pumped:
            self.router.subscribe(self._keeper.way_in(), priority=-(1 << 62))  # first of all
            self._pump.start()
            self._keeper.start()
            self._outlet.start()
            if self._feed is not None:
                self._feed.start()

    def flush(self, timeout: float = 10.0) -> bool:
        """Hand over what was emitted until now, and export it where the pipeline is ours; whether all that was done.

        Nothing is judged incomplete: what is open stays open. An application's own provider flushes itself.
        """
        now = time.monotonic()
        written = self._keeper.flush()
        drained = self._drain(now, timeout * 3 / 4, SpanBridge.flush)
        fed = self._feed is None or self._feed.flush(now + timeout * FEED_SHARE)
        done = self._outlet.flush(now + timeout) and drained and fed
        if done and self._outlet.pipeline.owns_traces:
            self._keeper.mark(written)
        return done

    def _drain(self, now: float, timeout: float, end: Callable[[SpanBridge], None], *, last: bool = False) -> bool:
        """Have handlers and bridges take what was emitted; those that hang leave the others a share of the time."""
        deadline = now + timeout
        handled = self.router.drain(min(timeout / 3, LONGEST_S))
        self._keeper.flush()

        def hand_over() -> None:
            spans = self._bridges.spans
            if spans is not None and not (self._pump.left and self._keeper.writes):  # else a recovery judges
                end(spans)

        drained = self._pump.drain(deadline, hand_over, last=last)
        return self._bridges.settle(remaining(deadline)) and handled and drained

    def close(self, timeout: float | None = None) -> bool:
        """The last of the `connect()`s ends: hand over everything, judge what is open, shut down what is ours.

        Takes at most `timeout` seconds (`AGENTBUS_EXIT_TIMEOUT`), whatever the endpoint does. Gives whether all was
        delivered.
        """
        self._resolve()
        with process.lock:
            self.uses -= 1
            if self.uses > 0 or self._closed:
                return True
            self._closed = True
            process.forget(self)
        if self._instrumented is not None:
            self._instrumented.off()
        return self._shut_down(time.monotonic(), self.settings.exit_timeout if timeout is None else timeout)

    def _shut_down(self, now: float, timeout: float) -> bool:
        if self._drain(now, timeout * BRIDGES_SHARE / 4, SpanBridge.flush):
            self._bridges.end_forgotten()
        done = self._drain(now, timeout * BRIDGES_SHARE, SpanBridge.close, last=True)
        if self.settings.summary:
            self.accounting.print_summary(sum(self.health()["events"]["dropped"].values()))
        fed = self._feed is None or self._feed.close(now + timeout * FEED_SHARE)
        done = self._outlet.close(now + timeout) and done and fed
        self._bridges.close()
        self._pump.stop()
        self.router.close()
        self._keeper.close(finished=not (self._outlet.lost or self._pump.left))
        if not done:
            _log.warning("Closed before all was delivered; health() says what is kept on disk, and what was lost")
        return done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def after_fork(self) -> None:
        """In the child: a new source with nothing of the parent's in it, and exporters of its own."""
        if self._closed:
            return
        self._lock = threading.RLock()
        self._stamp.renew()
        self.source = self._stamp.source
        self.counts.clear()
        self.content_policy.after_fork()
        self.accounting.after_fork(pumped=not self.settings.sdk_disabled)
        rebuilt = self._build is not None and self._outlet.is_ours
        self._bridges.forget(rebuilt=rebuilt)
        if self._build is not None and rebuilt:
            self._outlet.after_fork(self._build)
        self._bridges.wire()
        if not self.settings.sdk_disabled:
            self._pump.after_fork()
            self._keeper.after_fork()
            if self._feed is not None:
                self._feed.after_fork()

    # -- how it is -----------------------------------------------------------------------------------------------------

    def summary(self, timeout: float = 5.0) -> SummaryData:
        """What was used so far, by agent and model, with what was emitted before, as far as that is done in time."""
        self._keeper.flush()
        self._pump.drain(time.monotonic() + timeout)
        return self.accounting.summary.read()

    def health(self) -> dict[str, Any]:
        """The delivery receipt: what was emitted, what became of it, and what was lost where."""
        return receipt(
            self.source,
            self._stamp.emitted,
            self.router.stamped_before,
            self.counts["invalid"] + self.router.refused,
            self._keeper.waiting,
            self._bridges.told(),
            self._pump,
            self._outlet,
            self.router,
            self.accounting.budgets,
            self._keeper.health(),
            {} if self._feed is None else self._feed.health(),
        )


def connect(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    set_global: bool | None = None,
    validate: bool | None = None,
    instrument: str | tuple[str, ...] | list[str] | None = None,
    budgets: Iterable[Budget] | Budget | None = None,
    commit_times: CommitTimes | None = None,
    recover: bool | None = None,
    redact: Redact | None = None,
    on_error: OnError | None = None,
    settings: Settings | None = None,
) -> Bus:
    """Attach the one observer of this process, and give it back.

    Spans and metrics go to the providers given, else to the application's global ones if it has set some (nothing is
    added to them), else by OTLP as the standard `OTEL_*` variables say, else nowhere. Connecting again gives the same
    bus; the last `close()` closes it. Arguments beat the environment.

    Args:
        tracer_provider: where spans go, instead of what is found.
        meter_provider: where metrics go, instead of what is found.
        set_global: install the providers that we build as OpenTelemetry's global ones.
        validate: check every emitted event against the contract (for development; invalid ones are counted, not sent).
        instrument: the frameworks to observe: names such as "pydantic-ai", or "auto".
        budgets: what may be spent, instead of what the file of AGENTBUS_BUDGETS says. One in US dollars that is to
            raise waits here until the price list is loaded (a third of a second), to be exact from the first call on.
        commit_times: tells when a commit was made (seconds since the epoch or a datetime), for the deployments' lead
            time; called in the background with the commit's id.
        recover: send, in the background, what processes that were killed have left in the journal.
        redact: called with the field's name and the scrubbed content wherever content is captured; returns what stays.
        on_error: called with (subscription, event, exception) when a handler fails.
        settings: made by hand instead of read from the environment.

    Raises:
        ConfigurationError: a setting is wrong, or this process is connected with other arguments.
        UnsupportedFramework: `instrument` names what cannot be instrumented.

    """
    budgets, names = None if budgets is None else checked_budgets(budgets), adapters.named(instrument)
    given = (tracer_provider, meter_provider, set_global, validate, names, redact, on_error, settings)
    arguments = (*given, budgets, commit_times, recover)
    with process.lock:
        connected = process.bus
        differ = isinstance(connected, Bus) and connected._arguments not in (None, arguments)
        differ = differ and any(argument is not None for argument in arguments)
        if isinstance(connected, Bus) and differ and connected.gives_way:
            connected.uses = 1
            connected.close()
        elif isinstance(connected, Bus):
            if differ:
                raise ConfigurationError(
                    "connect() was called with other arguments than before in this process: "
                    "close the first bus, or connect once with everything"
                )
            connected.uses += 1
            return connected
        chosen = settings or Settings(
            validate_events=validate, set_global=set_global, instrument=names or None, recover=recover
        )

        def pipeline() -> Pipeline:
            return build(chosen, tracer_provider=tracer_provider, meter_provider=meter_provider, set_global=set_global)

        accounting = Accounting(chosen, budgets)  # before there is anything that a wrong file would leave behind
        instrumented = adapters.instrument(*chosen.instrument)
        try:
            bus = Bus(chosen, pipeline(), accounting, redact=redact, on_error=on_error, commit_times=commit_times)
        except BaseException:
            instrumented.off()
            raise
        bus._build, bus._instrumented, bus._arguments = pipeline, instrumented, arguments
        process.attach(bus)
        if (chosen.recover if recover is None else recover) and chosen.journal is not None:
            recover_in_background(chosen)
        if chosen.flush_on_sigterm:
            process.close_on_sigterm(chosen.exit_timeout)
    return bus
