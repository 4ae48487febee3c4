"""The journal that a command looks at: which one that is, what is in it, and which of its sources still live."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from otel_agentbus.cli.output import refuse
from otel_agentbus.cli.recover import journal_of
from otel_agentbus.errors import ConfigurationError
from otel_agentbus.events import Event
from otel_agentbus.recording import nanoseconds_of, read_events, sources
from otel_agentbus.settings import Settings

if TYPE_CHECKING:
    from otel_agentbus.telemetry.pricing import PriceBook

JOURNAL = "The journal's directory; else the one that AGENTBUS_JOURNAL names."


def opened(given: Path | None) -> tuple[Path, Settings]:
    """The directory to look at, and the settings in force; where one is wrong, that is said and the command ends."""
    try:
        settings = Settings()
        return journal_of(given, settings), settings
    except ConfigurationError as error:
        refuse(str(error))


def events_of(
    directory: Path, *, follow: bool = False, since_ns: int | None = None, stop: threading.Event | None = None
) -> Iterator[Event]:
    """Its events; a journal that is empty or cannot be read ends the command with a sentence."""
    found = False
    try:
        if follow and not sources(directory):
            refuse(f"There is no journal at {directory}: nothing was written there yet.")
        for event in read_events(directory, follow=follow, since_ns=since_ns, stop=stop):
            found = True
            yield event
    except OSError as error:
        refuse(f"The journal {directory} cannot be read: {error.strerror or error}.")
    if not (found or follow):
        said = "" if since_ns is None else " from then on"
        refuse(f"The journal {directory} holds no events{said}.")


def prices_of(chosen: Settings) -> PriceBook:
    """The prices, all of them loaded."""
    from otel_agentbus.telemetry.pricing import PriceBook

    try:
        book = PriceBook(chosen.prices)
    except ConfigurationError as error:
        refuse(str(error))
    book.load()
    return book


def moment_of(said: str | None) -> int | None:
    """`90s`, `1h`, `7d` ago, or a date and time (local, if it does not say otherwise), in nanoseconds."""
    try:
        return None if said is None else nanoseconds_of(said)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--since") from None


def gone_from(directory: Path) -> Callable[[str], bool]:
    """Whether a source of this journal is one whose process does not write any more."""
    try:
        living = {source.source: source.alive for source in sources(directory)}
    except OSError:  # it went away meanwhile: then nothing is known of them
        living = {}
    return lambda source: not living.get(source, True)
