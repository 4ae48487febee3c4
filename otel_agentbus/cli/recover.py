"""`otel-agentbus recover`: send what processes that were killed have left in the journal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otel_agentbus.errors import ConfigurationError
from otel_agentbus.settings import Settings

from .bars import progress_bar
from .sentences import counted, fail

if TYPE_CHECKING:
    from otel_agentbus.recovery import Recovered


def recover(
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="The journal; else that of AGENTBUS_JOURNAL.")
    ] = None,
) -> None:
    """Send the runs that no process finished: their process is gone. What was open in them ends as interrupted. Each
    run is recovered once. Exit code 0: all is sent, or waits in the spool; 1: some could not be kept; 2: a setting is
    wrong.
    """
    from otel_agentbus.recovery import recover as send

    try:
        settings = Settings()
        journal = journal_of(directory, settings)
        with progress_bar("Recovering") as progress:
            found = send(journal, settings=settings, progress=progress)
    except ConfigurationError as error:
        raise fail(str(error), 2) from None
    except KeyboardInterrupt:
        raise fail("Stopped. What was sent is sent; run recover again for the rest.", 130) from None
    typer.echo(_said(found, journal))
    if not found.delivered:
        raise fail("Not everything could be sent or kept: the journal stays as it is. Run recover again.", 1)


def journal_of(directory: Path | None, settings: Settings) -> Path:
    """The directory of the journal that is meant; ConfigurationError where there is none."""
    if directory is None and settings.journal is None:
        raise ConfigurationError("Which journal? Name its directory, or set AGENTBUS_JOURNAL.")
    journal = Path(str(settings.journal)) if directory is None else directory
    if not journal.is_dir():
        raise ConfigurationError(f"There is no journal in {journal}: that is no directory.")
    return journal


def _said(found: Recovered, journal: Path) -> str:
    if not found.sources:
        return f"Nothing to recover in {journal}."
    whose = f"{counted(found.runs, 'run')} of {counted(found.sources, 'process', 'processes')}"
    said = [f"{whose} recovered: {counted(found.spans, 'span')}, {found.interrupted:,} of them interrupted."]
    if found.refused:
        said.append(f"{counted(found.refused, 'span')} in batches that the endpoint refused: see its dead letters.")
    if found.spooled:
        said.append(f"{counted(found.spooled, 'span')} in the spool: the endpoint does not take them now.")
    if found.unknown:
        said.append(f"{counted(found.unknown, 'event')} of kinds that this version does not know.")
    if found.unreadable:
        said.append(f"{counted(found.unreadable, 'record')} could not be read.")
    return "\n".join(said)
