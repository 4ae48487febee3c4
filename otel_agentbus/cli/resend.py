"""`otel-agentbus resend`: send what waits in a spool directory to the endpoint of the settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from otel_agentbus.errors import ConfigurationError
from otel_agentbus.settings import Settings

from .bars import progress_bar
from .sentences import counted, fail

if TYPE_CHECKING:
    from otel_agentbus.targets import Target
    from otel_agentbus.telemetry.spool import Found, SpoolCounts


def resend(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="The directory of one spool, or the one that spools lie in.")
    ],
    dead_letters: Annotated[
        bool, typer.Option("--dead-letters", help="Also send what an endpoint has refused for good.")
    ] = False,
) -> None:
    """Send the spans that wait in a spool to the endpoint of OTEL_EXPORTER_OTLP_*, with its headers of now. Exit code
    0: nothing is left; 1: something is, or was refused; 2: a setting or the directory is wrong.
    """
    from otel_agentbus.telemetry.spool import sender_to
    from otel_agentbus.telemetry.spool.resend import Undelivered
    from otel_agentbus.telemetry.spool.resend import resend as send

    try:
        target = Settings().target("traces")
        spool = _chosen(directory, target)
        sender = sender_to(target)
    except ConfigurationError as error:
        raise fail(str(error), 2) from None
    try:
        with progress_bar("Resending") as progress:
            counts = send(spool.path, sender, progress, dead_letters=dead_letters)
    except Undelivered as left:
        typer.echo(_said(left.counts, sender.name))
        raise fail(f"The rest is kept: {sender.name} does not take it: {left}", 1) from None
    except OSError as error:
        raise fail(f"{spool.path}: {error}", 2) from None
    except KeyboardInterrupt:
        raise fail("Stopped. What was sent is sent, the rest is kept.", 130) from None
    finally:
        sender.shutdown()
    typer.echo(_said(counts, sender.name))
    _say_what_is_left(spool, counts)


def _chosen(directory: Path, target: Target) -> Found:
    """The one spool that is meant."""
    from otel_agentbus.telemetry.spool import key_of, spools
    from otel_agentbus.telemetry.spool.directories import look

    if not directory.is_dir():
        raise ConfigurationError(f"{directory} is no directory: name one of a spool.")
    if (found := look(directory)) is not None:
        return found
    inside = spools(directory)
    own = [each for each in inside if each.key == key_of(target)]
    if own or len(inside) == 1:
        return (own or inside)[0]
    if not inside:
        raise ConfigurationError(f"{directory} holds no spool: name the directory of one.")
    listed = "\n".join(f"  {each.path}  {counted(each.waiting, 'span')}" for each in inside)
    raise ConfigurationError(f"{directory} holds the spools of several endpoints: name one of them.\n{listed}")


def _said(counts: SpoolCounts, name: str) -> str:
    said = [f"{counted(counts.delivered, 'span')} sent ({name})."]
    if counts.rejected:
        said.append(f"{counted(counts.rejected, 'span')} rejected by it.")
    if counts.dead_lettered:
        said.append(f"{counted(counts.dead_lettered, 'span')} refused for good: see dead-letters.jsonl there.")
    said += [f"{counted(number, 'span')} lost: {reason}." for reason, number in counts.dropped.items()]
    return "\n".join(said)


def _say_what_is_left(spool: Found, counts: SpoolCounts) -> None:
    from otel_agentbus.telemetry.spool.directories import look

    left = look(spool.path)
    if left is not None and left.waiting:
        whose = "a process that is alive and sends them itself" if left.owned else "another process"
        raise fail(f"{counted(left.waiting, 'span')} left, of {whose}.", 1)
    if counts.rejected or counts.dead_lettered or counts.dropped:
        raise typer.Exit(1)
