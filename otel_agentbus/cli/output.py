"""Standard output as the commands that look at a journal use it: a terminal of any width, or whatever reads a pipe."""

from __future__ import annotations

import os
import select
import sys
import textwrap
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.status import Status
from rich.text import Text

from otel_agentbus.cli.sentences import fail
from otel_agentbus.telemetry.columns import encodable, printable

#: What a shell makes of an interrupt.
INTERRUPTED = 130
#: Seconds after which a terminal says that something takes a while.
_PATIENCE = 1.0

T = TypeVar("T")


class _Console(Console):
    """A console whose reader may go away: that ends the command, and is no error."""

    def on_broken_pipe(self) -> None:
        """Leave the end of the command to whoever has begun it."""
        self.quiet = True
        raise BrokenPipeError


class _Left(threading.Event):
    """Set when the reader of a pipe goes away, which is looked for by waiting; whoever writes is told anyway."""

    def __init__(self, file: IO[str]) -> None:
        super().__init__()
        self._poll = select.poll()
        with suppress(OSError, ValueError):  # a file in memory: nobody can go away
            self._poll.register(file.fileno(), 0)  # of errors it tells unasked

    def wait(self, timeout: float | None = None) -> bool:
        """Wait so many seconds; whether it is set."""
        if super().wait(timeout):
            return True
        if any(flags & (select.POLLERR | select.POLLHUP) for _, flags in self._poll.poll(0)):
            self.set()
        return self.is_set()


class Output:
    """Lines for people, each written out at once; colours and cuts are for terminals only."""

    def __init__(self) -> None:
        self.console: Console = _Console(highlight=False, markup=False, emoji=False)
        self.is_terminal = self.console.is_terminal
        self.width = self.console.width
        self.encoding = self.console.encoding.lower()
        #: Set when nobody reads any more.
        self.left: threading.Event = _Left(self.console.file)

    def line(self, parts: Iterable[tuple[str, str]]) -> None:
        """Print a line of texts with their styles; on a terminal no more of it than there is room for."""
        if self.is_terminal:
            text = Text.assemble(*parts)
            text.rstrip()
            text.truncate(self.width, overflow="ellipsis" if self.encoding.startswith("utf") else "crop")
            self.console.print(text, no_wrap=True, crop=True)
        else:
            self.write("".join(said for said, _ in parts).rstrip() + "\n")

    def reading(self, events: Iterable[T]) -> Iterator[T]:
        """The same events; where they are many, a terminal says meanwhile that they are read."""
        status: Status | None = None
        began = time.monotonic()
        try:
            for event in events:
                if status is None and self.is_terminal and time.monotonic() - began > _PATIENCE:
                    status = Console(stderr=True).status("Reading the journal", spinner="line")
                    status.start()
                yield event
        finally:
            if status is not None:
                status.stop()

    def block(self, text: Text | str, style: str = "") -> None:
        """Print lines that have their width already."""
        self.console.print(text, style=style or None, no_wrap=True, overflow="crop", crop=self.is_terminal)

    def sentence(self, text: str, style: str = "") -> None:
        """Print a sentence; on a terminal in as many lines as it needs."""
        said = encodable(printable(text), self.encoding)
        for line in textwrap.wrap(said, self.width, break_on_hyphens=False) if self.is_terminal else [said]:
            self.console.print(line, style=style or None, soft_wrap=True)

    def write(self, text: str) -> None:
        """Write text as it is, as far as it can be said here."""
        file = self.console.file
        file.write(encodable(text, self.encoding))
        file.flush()


@contextmanager
def quietly_ended() -> Iterator[None]:
    """What runs in here may be interrupted, and its reader may go away: neither leaves a traceback."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        with suppress(OSError, ValueError):  # else Python would try again at its exit what is left in the buffer
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None


def refuse(sentence: str) -> NoReturn:
    """Say why there is nothing to look at, and end with exit code 2."""
    raise fail(sentence, 2) from None
