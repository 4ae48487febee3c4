"""`otel-agentbus tail`: the events of a journal, one line each, as they come."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otel_agentbus.cli import journals
from otel_agentbus.cli.output import Output, quietly_ended

if TYPE_CHECKING:
    from otel_agentbus.events import Event


def tail(
    journal: Annotated[Path | None, typer.Argument(metavar="JOURNAL", help=journals.JOURNAL)] = None,
    no_follow: Annotated[
        bool, typer.Option("--no-follow", "-n", help="End with the last event instead of waiting for more.")
    ] = False,
    event: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Only these: 'llm.*'; may be given several times.")
    ] = None,
    agent: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Only of these agents; may be given several times.")
    ] = None,
    since: Annotated[
        str | None, typer.Option(help="Only from then on: 90s, 1h or 7d ago, or 2026-11-21T16:30 (local time).")
    ] = None,
) -> None:
    """Show the events of a journal, one line each, and wait for more: what your agents do, without a server.

    Times are local; `tree` takes the six characters after the time for the run. Exit code 2: there is no such journal.
    """
    directory, _ = journals.opened(journal)
    wanted = Wanted(event or (), agent or ())
    since_ns = journals.moment_of(since)
    output = Output()
    with quietly_ended():
        events = journals.events_of(directory, follow=not no_follow, since_ns=since_ns, stop=output.left)
        show(events, wanted, output)


class Wanted:
    """Which events are to be shown: of one of these names, and of one of these agents. None given: all."""

    def __init__(self, names: Iterable[str] = (), agents: Iterable[str] = ()) -> None:
        self._names, self._agents = tuple(names), tuple(agents)

    def __call__(self, event: Event) -> bool:
        """Whether this is one of them."""
        from otel_agentbus.events import name_of

        return _matches(name_of(event), self._names) and _matches(event.agent or "", self._agents)


def _matches(name: str, globs: tuple[str, ...]) -> bool:
    return not globs or any(fnmatchcase(name, glob) for glob in globs)


def show(events: Iterable[Event], wanted: Wanted, output: Output) -> None:
    """Print the wanted ones of these, and on a terminal each new day."""
    from otel_agentbus.cli.lines import Lines, today

    lines = Lines(output.width if output.is_terminal else None, output.encoding)
    day = today()
    for event in events:
        line = lines.line(event)  # of what is left out, too: it says how deep its run is
        if not wanted(event):
            continue
        if output.is_terminal and lines.day(event) not in ("", day):
            day = lines.day(event)
            output.line([(day, "dim")])
        output.line(line)
