"""A real Redis for the tests: Debian's `redis-server`, started on a free loopback port, without a disk.

`python -m tests.integration.redis_server` installs it where it is missing, with Debian's own package manager.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

from .backends import Server, free_ports

BINARY = "redis-server"
#: What Debian's package manager needs so that nobody is asked anything, and no service starts.
_QUIET = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}


class Redis(Server):
    """One Redis server. `kill()` and `start()` bring it back empty, unless it is `kept` on disk."""

    name: ClassVar[str] = "redis"

    def __init__(self, binary: Path, directory: Path, *, kept: bool = False) -> None:
        super().__init__(binary, directory)
        (self.port,) = free_ports(1)
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._kept = kept

    def command(self) -> list[str]:
        saved = ["--appendonly", "yes", "--appendfsync", "always"] if self._kept else ["--appendonly", "no"]
        own = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory), "--save", ""]
        return [str(self.binary), *own, *saved]

    def health_urls(self) -> list[str]:
        return []

    def _is_settled(self) -> bool:
        assert self._process is not None
        return self._process.poll() is not None or self._answers()

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def installed() -> Path | None:
    """Where Redis is, if it is there."""
    found = shutil.which(BINARY) or shutil.which(BINARY, path="/usr/bin:/usr/local/bin")
    return None if found is None else Path(found)


def install() -> int:
    """Install Redis by Debian's package manager; gives the exit code."""
    if installed() is not None:
        print(f"redis: {installed()}")
        return 0
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        print(f"{BINARY} is missing: install it (on Debian: apt-get install {BINARY}).", file=sys.stderr)
        return 1
    environment = {**os.environ, **_QUIET}
    command = ["apt-get", "install", "--yes", "--no-install-recommends", BINARY]
    if subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode != 0:
        subprocess.run(["apt-get", "update"], env=environment, stdout=subprocess.DEVNULL, check=True)
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    print(f"redis: {installed()}")
    return 0


if __name__ == "__main__":
    sys.exit(install())
