"""What a process takes of the machine, read from outside, again and again while it lives."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

_PAGE = os.sysconf("SC_PAGE_SIZE")


class Sample(NamedTuple):
    """One moment: monotonic seconds, resident bytes, threads, file descriptors, bytes in its directories."""

    at: float
    rss: int
    threads: int
    descriptors: int
    disk: tuple[int, ...]


def sample(pid: int, *directories: Path) -> Sample | None:
    """How it is now; None where the process has ended."""
    process = Path("/proc") / str(pid)
    try:
        rss = int((process / "statm").read_text().split()[1]) * _PAGE
        threads = len(os.listdir(process / "task"))
        descriptors = len(os.listdir(process / "fd"))
    except (OSError, IndexError):
        return None
    return Sample(time.monotonic(), rss, threads, descriptors, tuple(map(size, directories)))


def size(directory: Path) -> int:
    """The bytes of the files in it, of those that stay while one looks."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


class Sampled:
    """While it is entered, samples of a process are taken."""

    def __init__(self, pid: int, *directories: Path, every: float = 0.1) -> None:
        self.samples: list[Sample] = []
        self._pid, self._directories, self._every = pid, directories, every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sampled", daemon=True)

    def _watch(self) -> None:
        while (taken := sample(self._pid, *self._directories)) is not None:
            self.samples.append(taken)
            if self._over.wait(self._every):
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
