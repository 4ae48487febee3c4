"""Whether the interpreter is ending: from then on nothing may wait for an endpoint for longer than a moment.

What an SDK's own processor does at exit is not ours to bound, but how long we hold it up is.
"""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from typing import Protocol


class Leaver(Protocol):
    """Who wants to know of exits and forks; held weakly."""

    def exit_begins(self) -> None:
        """The interpreter runs its exit handlers; must return at once."""

    def after_fork(self) -> None:
        """Called in the child of a fork; any lock may have been inherited locked."""


_leavers: weakref.WeakSet[Leaver] = weakref.WeakSet()


def watch(leaver: Leaver) -> None:
    """Tell it of the interpreter's exit and of forks, while it lives."""
    _leavers.add(leaver)
    be_first()


def be_first() -> None:
    """Have our handler run before those that are registered so far: the last registered is the first to run.

    An exporter is mostly made before its provider, whose handler would then come first and wait for our sends.
    """
    if not exiting():
        atexit.unregister(_at_exit)
        atexit.register(_at_exit)


def exiting() -> bool:
    """Whether the main thread and all others that hold up the exit have ended, so that the exit handlers run."""
    main = threading.main_thread()
    return not main.is_alive() and all(thread.daemon or thread is main for thread in threading.enumerate())


def _at_exit() -> None:
    for leaver in tuple(_leavers):
        leaver.exit_begins()


def _after_fork() -> None:
    for leaver in tuple(_leavers):
        leaver.after_fork()


os.register_at_fork(after_in_child=_after_fork)
