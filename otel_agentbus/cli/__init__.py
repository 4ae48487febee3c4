"""LOOK: the command line `otel-agentbus`; each command's module is imported on use, so that `--help` is fast."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand

from otel_agentbus._version import __version__


class LazyCommand(TyperCommand):
    """A name and a line of help; the command itself is `otel_agentbus.cli.<name>.<name>`, imported on use."""

    # Any, because typer's contexts are click's in some versions and its own in others.
    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Hand over to the real command, its options and its help included."""
        assert self.name is not None  # given at registration
        function = getattr(import_module(f"otel_agentbus.cli.{self.name}"), self.name)
        alone = typer.Typer(add_completion=False)
        alone.command(self.name, context_settings=dict(self.context_settings))(function)
        return typer.main.get_command(alone).make_context(info_name, args, parent, **extra)


app = typer.Typer(
    name="otel-agentbus",
    help="What your AI agents did, as OpenTelemetry spans and metrics.",
    no_args_is_help=True,
    add_completion=False,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"otel-agentbus {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """What your AI agents did, as OpenTelemetry spans and metrics."""


def _register(name: str, meaning: str, **context: bool) -> None:
    @app.command(name, cls=LazyCommand, help=meaning, context_settings=context)
    def placeholder() -> None: ...


_register("demo", "Run a scripted program of three agents and watch its trace grow; no network, no key.")
_register("doctor", "Say which settings are in force, whether the endpoint answers, and what is wrong.")
_register("prices", "Explain what a model call costs: source, date, unit prices, arithmetic.")
_register("recover", "Send what processes that were killed have left in the journal, their open runs as interrupted.")
_register("relay", "Make spans of the events that a broker has, as one of any number of workers.")
_register("replay", "Send a journal again, whole or in part, with the same ids and times.")
_register("resend", "Send what waits in a spool directory to the endpoint of the settings.")
_register(
    "run",
    "Run a program and observe it, without a change to its code.",
    allow_interspersed_args=False,  # what stands behind the program is the program's
)
_register("tail", "Show the events of a journal as they come, one line each.")
_register("tree", "Draw a run from a journal: agents, calls, tools, and where its time and money went.")
_register("stats", "Sum up a journal by agent, model and tool: calls, errors, latencies, tokens, cost.")
