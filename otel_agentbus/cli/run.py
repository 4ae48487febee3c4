"""`otel-agentbus run app.py args...`: a program observed, without a change to its code.

The program takes the place of this process: same interpreter, same standard streams, signals and exit code.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from otel_agentbus.adapters import check
from otel_agentbus.cli.sentences import fail
from otel_agentbus.errors import AgentBusError
from otel_agentbus.starting import environment_of_run, frameworks


def run(
    program: Annotated[
        str, typer.Argument(help="A Python file, or a command such as uvicorn; with -m, a module.", metavar="PROGRAM")
    ],
    arguments: Annotated[list[str] | None, typer.Argument(help="The program's own arguments.", metavar="ARGS")] = None,
    module: Annotated[bool, typer.Option("-m", help="PROGRAM is a module, as with `python -m`.")] = False,
) -> None:
    """Run a program and observe it, without a change to its code.

    Every agent framework that it uses is observed (AGENTBUS_INSTRUMENT names others, or none). Where spans go, and all
    else, is said by the environment, as for connect(). The program's own processes are observed where they are forked
    or multiprocessing's; a command whose Python ignores the environment (-I, -E) runs unobserved.
    """
    command = command_of(program, arguments or [], module=module)
    if command is None:
        raise fail(f"There is no command {program!r}: name a file that ends in .py, a command, or -m and a module.", 2)
    try:
        check(*frameworks())
    except AgentBusError as error:
        raise fail(str(error), 2) from None
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execve(command[0], command, environment_of_run())
    except OSError as error:  # no "#!" line, one that names no interpreter, too many arguments
        raise fail(f"{command[0]} cannot be run: {error.strerror}.", 126) from None


def command_of(program: str, arguments: list[str], *, module: bool) -> list[str] | None:
    """What is to be executed, its file first; None where there is no such command."""
    if module:
        return [sys.executable, "-m", program, *arguments]
    if program.endswith((".py", ".pyz")) or Path(program, "__main__.py").is_file():
        return [sys.executable, program, *arguments]
    found = shutil.which(program)
    return None if found is None else [found, *arguments]
