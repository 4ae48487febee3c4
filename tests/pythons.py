"""Runs the tests of lineage, streams and processes on every other CPython of this machine (`python -m tests.pythons`).

How generators, tasks and forks behave is the interpreter's affair, and differs from one to the next. Each gets a
virtual environment outside the tree, with the locked versions of everything, made once for each state of the locks.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .integration.build_backends import cache_directory

ROOT = Path(__file__).parent.parent
LOCKS = [ROOT / "requirements" / f"{name}.txt" for name in ("build", "run", "dev")]
TESTS = ("streams*", "lineage*", "invocation", "processes", "task_groups")
OLDEST = (3, 11)
#: What a Python says of itself: a CPython with the GIL (the locks hold no wheels for others), its version, its program.
ASK = """
import json, platform, sys, sysconfig
usual = platform.python_implementation() == "CPython" and not sysconfig.get_config_var("Py_GIL_DISABLED")
print(json.dumps([usual and sys.version_info.releaselevel == "final", sys.version_info[:3], sys.executable]))
"""


class PythonError(Exception):
    """A Python could not be made ready; the message says why."""


@dataclass(frozen=True, order=True)
class Python:
    """One interpreter."""

    version: tuple[int, ...]
    program: str

    def __str__(self) -> str:
        return "Python " + ".".join(map(str, self.version))

    @property
    def environment(self) -> Path:
        """Where its virtual environment is, or will be: other locks or another interpreter is another one."""
        digest = hashlib.sha256(self.program.encode())
        for file in LOCKS:
            digest.update(file.read_bytes())
        version = ".".join(map(str, self.version))
        return cache_directory() / f"python-{version}-{digest.hexdigest()[:12]}"

    @property
    def stamp(self) -> Path:
        """What says that the environment is whole."""
        return self.environment / "ready"


def found() -> list[Python]:
    """The newest of each minor version that this machine has, but for the one that runs this."""
    newest: dict[tuple[int, ...], Python] = {}
    for python in sorted(filter(None, map(_ask, sorted(set(_programs()))))):
        if python.version[:2] >= OLDEST and python.version[:2] != sys.version_info[:2]:
            newest[python.version[:2]] = python
    return list(newest.values())


def _programs() -> Iterator[str]:
    for minor in range(OLDEST[1], 16):
        for directory in os.get_exec_path():
            program = shutil.which(f"python3.{minor}", path=directory)
            if program is not None:
                yield program
    yield from glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin/python"))


def _ask(program: str) -> Python | None:
    """What this program is; None where it is no CPython, or does not start (a shim for what is not chosen)."""
    try:
        done = subprocess.run([program, "-I", "-c", ASK], capture_output=True, text=True, timeout=30, check=True)
        usual, version, executable = json.loads(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return Python(tuple(version), os.path.realpath(executable)) if usual else None


def make_ready(python: Python) -> None:
    """Make its virtual environment, unless it is there."""
    if python.stamp.exists():
        return
    print(f"{python}: making its environment in {python.environment} (minutes, the first time)", flush=True)
    python.environment.parent.mkdir(parents=True, exist_ok=True)
    _run(python, [python.program, "-m", "venv", "--clear", str(python.environment)])
    pip = [_python_of(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    locks = [argument for file in LOCKS for argument in ("-r", str(file))]
    _run(python, [*pip, "--require-hashes", *locks])
    python.stamp.touch()


def _python_of(python: Python) -> str:
    return str(python.environment / "bin" / "python")


def _run(python: Python, command: Sequence[str]) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-15:])
        raise PythonError(f"`{' '.join(command[1:4])} ...` failed:\n{tail}")


def test(python: Python, options: Sequence[str]) -> bool:
    """Run the tests with it; whether all went well, of which the last line tells."""
    tests = sorted(str(file.relative_to(ROOT)) for name in TESTS for file in (ROOT / "tests").glob(f"test_{name}.py"))
    command = [_python_of(python), "-m", "pytest", "-q", "-p", "no:benchmark", "-n", "2", *options, *tests]
    hidden = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment["PYTHONPATH"] = str(ROOT)  # not installed there, so that every checkout can use it
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    lines = done.stdout.splitlines()
    if done.returncode:
        print("\n".join(lines[-100:]))
    print(f"{python}: {re.sub(r'^=+ | =+$', '', lines[-1]) if lines else 'it said nothing'}", flush=True)
    return done.returncode == 0


def main() -> int:
    """Run them all; 1 where one fails, or could not be made ready."""
    parser = argparse.ArgumentParser(description="Run the tests of lineage and streams on every other CPython here.")
    parser.add_argument("options", nargs="*", help="further options for pytest, behind --")
    options = parser.parse_args().options
    pythons = found()
    if not pythons:
        here = ".".join(map(str, sys.version_info[:2]))
        print(f"There is no other CPython from {'.'.join(map(str, OLDEST))} on here than {here}: nothing to do.")
    passed = []
    for python in pythons:
        try:
            make_ready(python)
            passed.append(test(python, options))
        except PythonError as error:
            print(f"{python}: {error}", flush=True)
            passed.append(False)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
