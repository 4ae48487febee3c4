"""Something heavy that is loaded once, now or in the background, and that survives forks and the end of the process."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable
from typing import Final

#: Seconds that a fork, or the end of the process, waits for a loading that is under way. A child that inherits a module
#: half imported could never import it; a thread that ends inside of native code would end the process with it.
PATIENCE: Final = 5.0


class Loading:
    """A function that is called once. It must not raise."""

    def __init__(self, load: Callable[[], None]) -> None:
        self._load = load
        self._once = threading.Lock()
        self._finished = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def done(self) -> bool:
        """Whether it was called and has returned."""
        return self._finished.is_set()

    def wait(self, timeout: float) -> bool:
        """Wait for it at most this many seconds; whether it is done."""
        return self._finished.wait(timeout)

    def now(self) -> None:
        """Call it here, or wait for whoever is at it."""
        with self._once:
            if not self._finished.is_set():
                self._load()
                self._finished.set()

    def in_background(self) -> None:
        """Call it in a daemon thread, unless that was done before."""
        if self._thread is None and not self._finished.is_set():
            thread = threading.Thread(target=self.now, name="otel-agentbus-prices", daemon=True)
            self._thread = thread
            _under_way.add(self)
            thread.start()

    def after_fork(self) -> None:
        """The child has none of the parent's threads."""
        wanted, done = self._thread is not None, self._finished.is_set()
        self._once, self._finished, self._thread = threading.Lock(), threading.Event(), None
        if done:
            self._finished.set()
        elif wanted:
            self.in_background()

    def rest(self) -> None:
        """Wait for the thread, if there is one."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            self._finished.wait(PATIENCE)


_under_way: weakref.WeakSet[Loading] = weakref.WeakSet()


def _rest() -> None:
    for loading in list(_under_way):
        loading.rest()


os.register_at_fork(before=_rest)
atexit.register(_rest)

__all__ = ["Loading"]
