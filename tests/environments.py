"""Virtual environments outside the tree, made once for each state of their locks: other Pythons, and the frameworks."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .integration.build_backends import cache_directory

ROOT = Path(__file__).parent.parent


class NotReady(Exception):
    """An environment could not be made ready; the message says why."""


@dataclass(frozen=True)
class Environment:
    """One virtual environment: what it is called, the interpreter that it is made with, and what is installed."""

    name: str
    program: str
    locks: tuple[Path, ...]

    @property
    def directory(self) -> Path:
        """Where it is, or will be: other locks or another interpreter is another one."""
        digest = hashlib.sha256(self.program.encode())
        for file in self.locks:
            digest.update(file.read_bytes())
        return cache_directory() / f"{self.name}-{digest.hexdigest()[:12]}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.directory / "bin" / "python"

    @property
    def is_ready(self) -> bool:
        """Whether it is whole."""
        return self._stamp.exists()

    @property
    def _stamp(self) -> Path:
        return self.directory / "ready"

    def make_ready(self) -> None:
        """Make it, unless it is there."""
        if self.is_ready:
            return
        print(f"{self.name}: making its environment in {self.directory} (minutes, the first time)", flush=True)
        self.directory.parent.mkdir(parents=True, exist_ok=True)
        _run([self.program, "-m", "venv", "--clear", str(self.directory)])
        pip = [str(self.python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
        locks = [argument for file in self.locks for argument in ("-r", str(file))]
        _run([*pip, "--require-hashes", "--no-deps", *locks])
        self._stamp.touch()

    def test(self, tests: Sequence[str], options: Sequence[str] = ()) -> bool:
        """Run these tests in it; whether all went well, of which the last line tells."""
        command = [str(self.python), "-m", "pytest", "-q", "-p", "no:benchmark", *options, *tests]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.variables(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        lines = done.stdout.splitlines()
        if done.returncode:
            print("\n".join(lines[-100:]))
        print(f"{self.name}: {re.sub(r'^=+ | =+$', '', lines[-1]) if lines else 'it said nothing'}", flush=True)
        return done.returncode == 0

    def variables(self) -> dict[str, str]:
        """The environment variables of a program that runs in it: with this tree, which is not installed there."""
        hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        kept = {name: value for name, value in os.environ.items() if name not in hidden}
        return {**kept, "PYTHONPATH": str(ROOT)}


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise NotReady(f"`{' '.join(command[1:4])} ...` failed:\n{tail}")
