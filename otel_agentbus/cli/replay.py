"""`otel-agentbus replay`: send a journal again, whole or in part, to the endpoint of the settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otel_agentbus.errors import ConfigurationError
from otel_agentbus.settings import Settings

from .bars import progress_bar
from .recover import journal_of
from .sentences import counted, fail

if TYPE_CHECKING:
    from otel_agentbus.recovery import Replayed


def replay(
    journal: Annotated[Path, typer.Argument(metavar="JOURNAL", help="Its directory.")],
    speed: Annotated[
        float | None, typer.Option(help="1 takes the time that it took, 10 a tenth of it; else as fast as possible.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="ROOT_ID", help="Only this tree: its root invocation id, or how that begins.")
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Only trees active from then on: 90s, 1h, 7d ago, or 2026-11-21T16:30 (local)."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing; say what would be sent.")] = False,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="Count the metrics again, which were counted when it happened.")
    ] = False,
) -> None:
    """Send the spans of a journal with the ids and times that they had; sent again, they are the same spans. Exit code
    0: all is sent, or waits in the spool; 1: some could not be kept; 2: a setting or an option is wrong.
    """
    from otel_agentbus.recovery import replay as send

    try:
        settings = Settings()
        directory = journal_of(journal, settings)
        with progress_bar("Replaying") as progress:
            found = send(
                directory,
                settings=settings,
                speed=speed,
                only=only,
                since=since,
                dry_run=dry_run,
                metrics=metrics,
                progress=progress,
            )
    except ConfigurationError as error:
        raise fail(str(error), 2) from None
    except KeyboardInterrupt:
        raise fail("Stopped. What was sent is sent; sent again, it is the same.", 130) from None
    typer.echo(_said(found, dry_run=dry_run))
    if not found.delivered:
        raise fail("Not everything could be sent or kept: run replay again.", 1)


def _said(found: Replayed, *, dry_run: bool) -> str:
    what = "would be sent" if dry_run else "sent"
    spans = f"{counted(found.spans, 'span')} of {counted(found.runs, 'run')} {what}"
    told = f"{counted(found.events, 'event')} of {counted(found.sources, 'process', 'processes')}"
    said = [f"{spans}, {found.interrupted:,} of them interrupted; {told}."]
    if found.refused:
        said.append(f"{counted(found.refused, 'span')} in batches that the endpoint refused: see its dead letters.")
    if found.spooled:
        said.append(f"{counted(found.spooled, 'span')} in the spool: the endpoint does not take them now.")
    if found.open:
        said.append(f"{counted(found.open, 'span')} still open in processes that are alive.")
    if found.expired:
        said.append(f"{counted(found.expired, 'run')} ended as interrupted after AGENTBUS_RUN_TTL.")
    if found.late:
        said.append(f"{counted(found.late, 'event')} told twice, or of what was over.")
    if found.unknown:
        said.append(f"{counted(found.unknown, 'event')} of kinds that this version does not know.")
    if found.unreadable:
        said.append(f"{counted(found.unreadable, 'record')} could not be read.")
    return "\n".join(said)
