"""Something heavy that is imported once, now or in the background, and that survives forks."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Final

#: Seconds that a fork waits for a loading that is under way: a child that inherits a half imported module, and the lock
#: of the thread that was importing it, could never import it itself.
PATIENCE: Final = 2.0
#: Seconds that the end of the process waits for it. It takes 0.3 s, and touches no network.
PATIENCE_AT_EXIT: Final = 10.0


class Loading:
    """A function that is called once. It must not raise."""

    def __init__(self, load: Callable[[], None]) -> None:
        self._load = load
        self._once = threading.Lock()
        self._finished = threading.Event()
        self._thread: threading.Thread | None = None
        self._loader: int | None = None
        _known[:] = [known for known in _known if known() is not None]
        _known.append(weakref.ref(self))

    @property
    def done(self) -> bool:
        """Whether it was called and has returned."""
        return self._finished.is_set()

    @property
    def under_way(self) -> bool:
        """Whether a thread is at it, or about to be."""
        return (self._loader is not None or self._thread is not None) and not self.done

    def wait(self, timeout: float) -> bool:
        """Wait for it at most this many seconds; whether it is done."""
        return self._finished.wait(timeout)

    def now(self) -> None:
        """Call it here, or wait for whoever is at it."""
        with self._once:
            if not self._finished.is_set():
                self._loader = threading.get_ident()
                self._load()
                self._finished.set()

    def in_background(self) -> None:
        """Call it in a daemon thread, unless that was done before."""
        if self._thread is None and not self._finished.is_set():
            self._thread = threading.Thread(target=self.now, name="otel-agentbus-prices", daemon=True)
            self._thread.start()

    def before_fork(self) -> None:
        """Wait for the thread that is at it."""
        if self._loader is not None and self._loader != threading.get_ident():
            self._finished.wait(PATIENCE)

    def after_fork(self) -> None:
        """The child has none of the parent's threads."""
        wanted, done = self._thread is not None, self._finished.is_set()
        self._once, self._finished, self._thread, self._loader = threading.Lock(), threading.Event(), None, None
        if done:
            self._finished.set()
        elif wanted:
            self.in_background()


_known: list[weakref.ref[Loading]] = []


def _at_exit() -> None:
    """Let a program end as it would without us: with its own exit code, and by the signal, if Ctrl-C has ended it.

    A daemon thread that wants the interpreter's lock back after its end is unwound by force, and the list's Rust
    extension aborts the process when that happens inside it: so a loading that is under way is waited for.

    CPython forgets an unhandled KeyboardInterrupt when a text is executed, in whatever thread: to import the list is to
    execute many (each dataclass is one). To be raised and handled in such a text once more reminds it.
    """
    for known in _known.copy():
        loading = known()
        if loading is not None and loading.under_way:
            loading.wait(PATIENCE_AT_EXIT)
    if isinstance(getattr(sys, "last_value", None), KeyboardInterrupt):
        try:
            exec("raise KeyboardInterrupt")
        except KeyboardInterrupt:
            pass


def _before_fork() -> None:
    for known in _known.copy():
        loading = known()
        if loading is not None:
            loading.before_fork()


os.register_at_fork(before=_before_fork)
atexit.register(_at_exit)  # before any bus registers its own end, which may import: what is registered last runs first

__all__ = ["Loading"]
