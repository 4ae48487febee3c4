"""A program that knows nothing of us, observed: what to observe in it, and how the bus gets into its process.

`otel-agentbus run` starts the program with a directory of ours first in its path for modules; Python imports the
`sitecustomize` that it finds there before the program's first line, and that calls `begin`.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from . import environment
from .errors import AgentBusError
from .settings import Settings

#: Where our `sitecustomize` lies, with nothing else beside it.
DIRECTORY = Path(__file__).parent / "cli" / "startup"
#: The process that is to be observed, by its number: others that find the directory are not meant.
PROCESS = "AGENTBUS_RUN_PROCESS"
_PATH = "PYTHONPATH"


def frameworks() -> tuple[str, ...]:
    """The frameworks that the environment names; all that the program uses, where it says nothing of them."""
    settings = Settings()
    return ("auto",) if settings.origin("instrument").kind == "default" else settings.instrument


def environment_of_run() -> dict[str, str]:
    """The environment in which a program is observed that takes this process's place."""
    path = environment.as_it_stands(_PATH)
    path = str(DIRECTORY) if not path else f"{DIRECTORY}{os.pathsep}{path}"
    return environment.for_a_program({_PATH: path, PROCESS: str(os.getpid())})


def begin() -> None:
    """Connect the bus. What is wrong is told in its one sentence, and the program runs as it would without us.

    A program that connects by itself, with arguments of its own, gets a bus of its own in the place of this one.
    """
    from .adapters import instrument
    from .bus import connect

    try:
        instrument(*frameworks())
        connect().gives_way = True
    except AgentBusError as error:
        print(f"otel-agentbus: {error}", file=sys.stderr)  # noqa: T201 - there is no logging yet
    except Exception:  # the program must run, whatever is wrong with us
        logging.getLogger("otel_agentbus.starting").exception("The program runs unobserved")


__all__ = ["DIRECTORY", "PROCESS", "begin", "environment_of_run", "frameworks"]
