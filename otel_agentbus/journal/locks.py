"""The lock that says a writer lives: it goes with its process, however that ends, and never to a forked child."""

from __future__ import annotations

import fcntl
import os
import threading
import time
import weakref
from pathlib import Path

from .places import open_private

_PROBED = 20  # how often somebody who only looks may be in the way


class WriterLock:
    """A writer's lock file, held by this process."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @classmethod
    def take(cls, path: Path) -> WriterLock | None:
        """The lock; None where somebody else holds it.

        Raises:
            OSError: the file cannot be made or locked.

        """
        for _ in range(_PROBED):
            lock = cls._open(path)
            try:
                fcntl.flock(lock._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not lock.gone and os.path.samestat(os.fstat(lock._descriptor), os.stat(path)):
                    return lock
                lock.release()  # it was removed and made anew in between: then the lock is of nothing
            except BlockingIOError:
                looked_at = _shared(lock._descriptor)
                lock.release()
                if not looked_at:
                    return None
                time.sleep(0.001)
            except FileNotFoundError:
                lock.release()
            except BaseException:
                lock.release()
                raise
        return None

    @classmethod
    def _open(cls, path: Path) -> WriterLock:
        with _forks.opening:
            lock = cls(path, open_private(path, os.O_RDWR))
            _forks.locks.add(lock)
        return lock

    @property
    def gone(self) -> bool:
        """Whether the file was removed, so that nobody else can see that its writer lives."""
        return self._descriptor < 0 or os.fstat(self._descriptor).st_nlink == 0

    def remove(self) -> None:
        """Delete the file, then let go: there is no moment at which somebody else could lock what is going away."""
        try:
            if not self.gone:
                self.path.unlink(missing_ok=True)
        finally:
            self.release()

    def release(self) -> None:
        """Let go of the lock; the file stays."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.release()


def held(path: Path) -> bool:
    """Whether somebody holds this lock; looking takes nothing away."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        return not _shared(descriptor)
    finally:
        os.close(descriptor)


def _shared(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


class _Forks:
    """Closes the locks in a forked child: a child that kept them would keep its dead parent's writer alive."""

    def __init__(self) -> None:
        self.locks: weakref.WeakSet[WriterLock] = weakref.WeakSet()
        self.opening = threading.Lock()
        self._thread = threading.local()
        os.register_at_fork(
            before=self._before, after_in_parent=self._after_in_parent, after_in_child=self._after_in_child
        )

    def _before(self) -> None:
        # No lock is then open and not yet noted; a file system that hangs does not keep anybody from forking.
        self._thread.acquired = self.opening.acquire(timeout=1.0)

    def _after_in_parent(self) -> None:
        if self._thread.acquired:
            self.opening.release()

    def _after_in_child(self) -> None:
        self.opening = threading.Lock()
        for lock in tuple(self.locks):
            lock.release()
        self.locks = weakref.WeakSet()


_forks = _Forks()
