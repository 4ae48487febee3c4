"""Runs the tests of lineage, streams and processes on every other CPython of this machine (`python -m tests.pythons`).

How generators, tasks and forks behave is the interpreter's affair, and differs from one to the next. Each gets a
virtual environment outside the tree, with the locked versions of everything, made once for each state of the locks.
"""

from __future__ import annotations

import argparse
import glob
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .environments import ROOT, Environment, NotReady

LOCKS = tuple(ROOT / "requirements" / f"{name}.txt" for name in ("build", "run", "dev"))
TESTS = ("streams*", "lineage*", "invocation", "processes", "task_groups")
OLDEST = (3, 11)
#: These start no thread at exit: what a process has not begun to send by then waits on disk for the next one, so that
#: tests of what has arrived from short processes depend on the machine's speed.
HASTY = {(3, 12, 0), (3, 12, 1)}
#: What a Python says of itself: a CPython with the GIL (the locks hold no wheels for others), its version, its program.
ASK = """
import json, platform, sys, sysconfig
usual = platform.python_implementation() == "CPython" and not sysconfig.get_config_var("Py_GIL_DISABLED")
print(json.dumps([usual and sys.version_info.releaselevel == "final", sys.version_info[:3], sys.executable]))
"""


@dataclass(frozen=True, order=True)
class Python:
    """One interpreter."""

    version: tuple[int, ...]
    program: str

    def __str__(self) -> str:
        return "Python " + ".".join(map(str, self.version))

    @property
    def environment(self) -> Environment:
        """Its virtual environment, with the locked versions of everything."""
        return Environment("python-" + ".".join(map(str, self.version)), self.program, LOCKS)


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


def test(python: Python, options: Sequence[str]) -> bool:
    """Run the tests with it; whether all went well."""
    names = [name for name in TESTS if name != "processes" or python.version not in HASTY]
    tests = sorted(str(file.relative_to(ROOT)) for name in names for file in (ROOT / "tests").glob(f"test_{name}.py"))
    environment = python.environment
    environment.make_ready()
    return environment.test(tests, ["-n", "2", *options])


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
            passed.append(test(python, options))
        except NotReady as error:
            print(f"{python}: {error}", flush=True)
            passed.append(False)
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
