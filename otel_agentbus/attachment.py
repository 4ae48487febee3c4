"""One bus in a process: attached so that blocks find it, renewed after a fork, closed at exit."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Protocol

from .blocks import install
from .runtime import Runtime
from .sigterm import close_on_sigterm


class Attached(Runtime, Protocol):
    """A bus, as far as its process knows it."""

    uses: int

    def start(self) -> None:
        """Begin."""

    def close(self, timeout: float | None = None) -> bool:
        """End, once for every use."""

    def after_fork(self) -> None:
        """Become the bus of a child process."""


class Process:
    """What this process is attached to. `multiprocessing` ends its children without `atexit`; both ways are taken."""

    def __init__(self) -> None:
        self.bus: Attached | None = None
        self.lock = threading.RLock()
        self._closer: Callable[[], None] | None = None
        self._finalizer: Any = None
        self._undo_sigterm: Callable[[], None] = _nothing
        self._forks = False  # whether this process hears of its forks
        os.register_at_fork(after_in_child=self._renew_lock)  # which somebody who connects may hold

    def attach(self, bus: Attached) -> None:
        """Let blocks emit to this bus from now on."""
        bus.uses += 1
        if not self._forks:  # not at import: the parts of a bus must hear of a fork before it does
            self._forks = True
            os.register_at_fork(after_in_child=self._after_fork)
        bus.start()
        self.bus = bus
        install(bus)
        self.close_at_exit(bus)

    def close_on_sigterm(self, timeout: float) -> None:
        """Close before an unhandled SIGTERM ends the process; that takes no longer than `timeout`, or little."""

        def close() -> None:
            if self._closer is not None:
                self._closer()

        self._undo_sigterm = close_on_sigterm(close, timeout)

    def forget(self, bus: Attached) -> None:
        """Let go of a bus that is closed."""
        with self.lock:
            if self.bus is bus:
                self.bus = None
                install(None)
                self._unregister()
                self._undo_sigterm()

    def close_at_exit(self, bus: Attached) -> None:
        """Close at exit, before the exit of the providers that are there by now: the last registered runs first."""
        self._unregister()

        def close() -> None:
            bus.uses = min(bus.uses, 1)
            bus.close()

        self._closer = close
        atexit.register(close)
        self._finalizer = _finalizer(close)

    def _unregister(self) -> None:
        if self._closer is not None:
            atexit.unregister(self._closer)
            self._closer = None
        if self._finalizer is not None:
            self._finalizer.cancel()
            self._finalizer = None

    def _renew_lock(self) -> None:
        self.lock = threading.RLock()

    def _after_fork(self) -> None:
        if self.bus is not None:
            self.bus.after_fork()
            util = sys.modules.get("multiprocessing.util")
            if util is not None and self._closer is not None:
                # A child of `multiprocessing` clears what it has inherited after this hook, then it is our turn.
                util.register_after_fork(self._closer, self._finalize_again)

    def _finalize_again(self, closer: Callable[[], None]) -> None:
        if closer is self._closer:
            self._finalizer = _finalizer(closer)


def _finalizer(closer: Callable[[], None]) -> Any:
    """Children of `multiprocessing` leave by its own finalizers (it runs no `atexit` in them before 3.13)."""
    multiprocessing = sys.modules.get("multiprocessing.process")
    if multiprocessing is None or multiprocessing.parent_process() is None:
        return None
    from multiprocessing.util import Finalize

    return Finalize(None, closer, exitpriority=10)


def _nothing() -> None:
    """There is nothing to undo."""


process = Process()
