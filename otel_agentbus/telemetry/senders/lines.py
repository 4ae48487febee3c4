"""HTTP connections that another thread can cut: a read that a slow server drags out ends at once."""

from __future__ import annotations

import socket
import threading
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from requests.adapters import HTTPAdapter


class Lines:
    """The connections of one adapter, each known by a second descriptor, which no TLS layer takes over."""

    def __init__(self) -> None:
        self._lines: set[socket.socket] = set()
        self._over: set[socket.socket] = set()
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._lines).atexit = False

    def adapter(self) -> HTTPAdapter:
        """Requests' own adapter, whose connections are kept here."""
        from requests.adapters import HTTPAdapter

        lines = self

        class Adapter(HTTPAdapter):
            def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
                super().init_poolmanager(*arguments, **options)
                lines._watch(self.poolmanager)

            def proxy_manager_for(self, *arguments: Any, **options: Any) -> Any:
                known = len(self.proxy_manager)
                manager = super().proxy_manager_for(*arguments, **options)
                if len(self.proxy_manager) > known:
                    lines._watch(manager)
                return manager

            def close(self) -> None:
                super().close()
                lines.close()

        return Adapter(pool_connections=1, pool_maxsize=1)

    def _watch(self, manager: Any) -> None:
        pools = manager.pool_classes_by_scheme.items()
        manager.pool_classes_by_scheme = {scheme: _watched(pool, self) for scheme, pool in pools}

    def cut(self) -> None:
        """End all reading and writing on every connection."""
        with self._lock:
            for line in self._lines:
                try:
                    line.shutdown(socket.SHUT_RDWR)
                except OSError:  # it has ended by itself
                    pass

    def sweep(self) -> None:
        """Let go of the connections that have been closed; to be called between attempts.

        Not when they are closed: the rest of an answer may still be read from a connection that counts as closed.
        """
        with self._lock:
            while self._over:  # not replaced by a new set: those whose connection is collected come into this one
                line = self._over.pop()
                self._lines.discard(line)
                line.close()

    def close(self) -> None:
        """Let go of all connections."""
        with self._lock:
            _close(self._lines)

    def opened(self, connection: object, line: socket.socket) -> None:
        """A connection has been made; this is its second descriptor."""
        with self._lock:
            self._lines.add(line)
        weakref.finalize(connection, self._over.add, line).atexit = False

    def ended(self, line: socket.socket) -> None:
        """The connection has been closed."""
        with self._lock:
            self._over.add(line)


def _close(lines: set[socket.socket]) -> None:
    while lines:
        lines.pop().close()


def _watched(pool: Any, lines: Lines) -> Any:
    """The pool, with connections that tell when they are made and closed."""

    class Connection(pool.ConnectionCls):  # type: ignore[misc]  # whichever it is
        _line: socket.socket | None = None

        def _new_conn(self) -> socket.socket:
            made: socket.socket = super()._new_conn()
            self._line = made.dup()
            lines.opened(self, self._line)
            return made

        def close(self) -> None:
            super().close()
            if self._line is not None:
                lines.ended(self._line)
                self._line = None

    return type(pool.__name__, (pool,), {"ConnectionCls": Connection})
