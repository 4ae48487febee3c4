"""`otel-agentbus demo`: a scripted program of three agents, shown live as a tree, then its totals."""

from __future__ import annotations

import asyncio
import logging
import selectors
from typing import TYPE_CHECKING, Annotated

import typer

import otel_agentbus as agentbus
from otel_agentbus.cli import standins
from otel_agentbus.cli.scenario import QUESTION, Newsroom, operate
from otel_agentbus.errors import ConfigurationError
from otel_agentbus.telemetry.origin import Origin, read_origin
from otel_agentbus.telemetry.outline import Outline

if TYPE_CHECKING:
    from rich.console import Console

#: How long the export of the trace may take, in seconds.
PATIENCE = 5.0
JAEGER = "http://localhost:16686"
SERVICE = "agentbus-demo"
_SILENT = logging.NullHandler()


class Hasty(selectors.SelectSelector):
    """A selector that does not wait: where nothing else is left to do, its clock jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """What is ready now, else the time jumps."""
        ready = super().select(0 if timeout is not None else None)
        if not ready and timeout is not None:
            self.now += max(timeout, 0.0)
        return ready


class HastyLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time, and everything happens in the same order as with it."""

    def __init__(self) -> None:
        self._hasty = Hasty()
        super().__init__(self._hasty)

    def time(self) -> float:
        """The time of its timers."""
        return self._hasty.now


def demo(
    fast: Annotated[bool, typer.Option("--fast", help="Do not wait: the same in no time.")] = False,
    jaeger: Annotated[str, typer.Option(metavar="URL", help="Where your Jaeger's pages are.")] = JAEGER,
) -> None:
    """Run a scripted program of three agents and watch its trace grow; no network, no key, no server.

    With OTEL_EXPORTER_OTLP_ENDPOINT set it exports, too, and says where the trace is to be seen.
    """
    from rich.console import Console

    console = Console(highlight=False)
    for name in ("opentelemetry", "otel_agentbus"):  # what fails is said below, in a sentence
        logging.getLogger(name).addHandler(_SILENT)
    try:
        settings = named()
        budgets = None if settings.budgets else [Newsroom.BUDGET]
        bus = agentbus.connect(settings=settings, budgets=budgets, commit_times=standins.committed)
    except ConfigurationError as error:
        console.print(str(error), style="red", markup=False)
        raise typer.Exit(2) from None
    flushed = finished = stopped = False
    try:
        bus.accounting.prices.load()  # else the first calls would be shown before they are priced
        outline = Outline(bus.accounting.prices)
        try:
            finished = perform(bus, outline, console, fast=fast)
            operate(bus)
        except* agentbus.BudgetExceeded as refused:  # of the user's own budgets, which may be to stop it
            console.print(f"Stopped: {_innermost(refused)}", style="red", markup=False)
            stopped = True
        with console.status("Exporting"):
            flushed = bus.flush(PATIENCE)
    finally:
        bus.close(None if flushed else 0.1)  # what was not exported by now has had its time
    for sentence in whereabouts(bus, read_origin(outline.trace), jaeger.rstrip("/"), flushed=flushed):
        console.print(sentence, markup=False, soft_wrap=sentence.startswith(jaeger))  # a broken link is none
    raise typer.Exit(0 if finished else 1 if stopped else 130)


def _innermost(error: BaseException) -> BaseException:
    """What was raised, however many groups of tasks it has passed."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def named() -> agentbus.Settings:
    """The settings of the environment, with a name for this service where they give none."""
    settings = agentbus.Settings()
    if settings.service_name or "service.name" in dict(settings.resource_attributes):
        return settings
    return agentbus.Settings(service_name=SERVICE)


def perform(bus: agentbus.Bus, outline: Outline, console: Console, *, fast: bool = False) -> bool:
    """Run the program and show what it emits; whether it came to its end."""
    from otel_agentbus.telemetry.console import View

    view = View(outline, console)
    finished = True
    console.print(f"Three agents answer: {QUESTION}\n", style="bold")
    with bus.subscribe(outline):
        try:
            with view.watched(), asyncio.Runner(loop_factory=HastyLoop if fast else None) as runner:
                runner.run(Newsroom(bus).answer(QUESTION))
        except KeyboardInterrupt:
            finished = False
    console.print()
    console.print(view.totals())
    console.print(f"\n{view.sum()}{'' if finished else ' (interrupted)'}")
    return finished


def whereabouts(bus: agentbus.Bus, origin: Origin | None, jaeger: str, *, flushed: bool) -> list[str]:
    """Where the trace is now, in sentences."""
    settings = bus.settings
    if origin is None and not settings.exports_metrics:
        if settings.sdk_disabled or settings.traces_exporter is not None:
            return [f"Nothing left this process ({bus.health()['traces']})."]
        return ["Nothing left this process. Set OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 to export it, too."]
    if origin is None:
        return [_metrics(flushed)]
    sentences = [f"Trace {origin.trace_id:032x}"]
    if not origin.sampled:
        sentences.append("OTEL_TRACES_SAMPLER left this trace out: it was not sent.")
    elif trouble := _trouble(bus, flushed):
        return [*sentences, trouble]
    else:
        health = bus.health()
        did = "Exported by" if health["spans"]["exported"] else "Handed to"  # whose exports only the application knows
        sentences.append(f"{did} {health['traces']}")
        if "otlp" in settings.exporters("traces"):
            sentences.append(f"{jaeger}/trace/{origin.trace_id:032x}")
    if not flushed:
        sentences.append(_metrics(flushed))
    return sentences


def _trouble(bus: agentbus.Bus, flushed: bool) -> str | None:
    """What went wrong with the spans."""
    spans, way = bus.health()["spans"], bus.health()["traces"]
    lost = spans["rejected"] + spans["dead_lettered"] + sum(spans["dropped"].values())
    if lost:
        return f"NOT EXPORTED: {lost} spans were refused or lost on their way ({way}). `otel-agentbus doctor` says why."
    if spans["spooled"]:
        return (
            f"NOT EXPORTED: {spans['spooled']} spans are kept on disk and sent when the endpoint takes them ({way}). "
            f"`otel-agentbus doctor` says why it does not."
        )
    if not flushed and not spans["exported"]:
        return f"NOT EXPORTED within {PATIENCE:.0f} s ({way}). `otel-agentbus doctor` says why."
    return None


def _metrics(flushed: bool) -> str:
    return "The metrics were exported." if flushed else "THE METRICS WERE NOT EXPORTED: see `otel-agentbus doctor`."
