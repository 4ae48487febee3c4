"""One bus in a process: attached so that blocks find it, renewed after a fork, closed at exit."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from typing import Protocol

from .blocks import Runtime, install


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
        os.register_at_fork(after_in_child=self._after_fork)

    def attach(self, bus: Attached) -> None:
        """Let blocks emit to this bus from now on."""
        bus.uses += 1
        bus.start()
        self.bus = bus
        install(bus)
        self.close_at_exit(bus)

    def forget(self, bus: Attached) -> None:
        """Let go of a bus that is closed."""
        with self.lock:
            if self.bus is bus:
                self.bus = None
                install(None)
                self._unregister()

    def close_at_exit(self, bus: Attached) -> None:
        """Close at exit, before the exit of the providers that are there by now: the last registered runs first."""
        self._unregister()

        def close() -> None:
            bus.uses = min(bus.uses, 1)
            bus.close()

        self._closer = close
        atexit.register(close)

    def _unregister(self) -> None:
        if self._closer is not None:
            atexit.unregister(self._closer)
            self._closer = None

    def _after_fork(self) -> None:
        self.lock = threading.RLock()
        if self.bus is not None:
            self.bus.after_fork()
            _finalize_in_multiprocessing(self._closer)


def _finalize_in_multiprocessing(closer: Callable[[], None] | None) -> None:
    """Children of `multiprocessing` leave by its own finalizers (it runs no `atexit` in them before 3.13)."""
    util = sys.modules.get("multiprocessing.util")
    if closer is not None and util is not None:
        # The child clears the finalizers that it has inherited after this hook, so ours is registered once it has.
        util.register_after_fork(closer, lambda close: util.Finalize(None, close, exitpriority=10))


process = Process()
