"""Builds the servers that the integration tests talk to: once per version, outside the tree.

    python tests/integration/build_backends.py                   # all of them: minutes the first time, then none
    python tests/integration/build_backends.py collector jaeger  # some of them
    python tests/integration/build_backends.py --list            # what is built, and where

Needs Go 1.26 (`go` on the PATH, or its path in GO) and, of Python, the standard library alone. What is built, from
which modules and under which checksums, stands in `manifests/`; a change there is a new build, in a new directory.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MANIFESTS = Path(__file__).parent / "manifests"
COLLECTOR_BUILDER = "go.opentelemetry.io/collector/cmd/builder"
GO_BUILD = ("build", "-mod=readonly", "-buildvcs=false", "-trimpath", "-ldflags=-s -w")


class BuildError(Exception):
    """A backend could not be built; the message says why and what helps."""


@dataclass(frozen=True)
class Backend:
    """One server: its manifest's directory says which version, and `package` what of it is built."""

    name: str
    package: str  # the Go package; for the Collector, "." of the sources that its builder writes
    tags: str = ""  # Go build tags

    @property
    def manifest(self) -> Path:
        return MANIFESTS / self.name

    @property
    def version(self) -> str:
        """The version that the manifest pins: of the Collector's distribution, else of the first required module."""
        file = self.manifest / ("manifest.yaml" if self.name == "collector" else "go.mod")
        found = re.search(r"^(?:  version: |require \S+ v)(\S+)", file.read_text(), re.MULTILINE)
        if found is None:
            raise BuildError(f"{file} names no version")
        return found[1]

    @property
    def binary(self) -> Path:
        """Where the built server is, or will be: another manifest, recipe or machine is another directory."""
        recipe = [platform.system(), platform.machine(), self.package, self.tags, *GO_BUILD]
        digest = hashlib.sha256("\0".join(recipe).encode())
        for file in sorted(self.manifest.iterdir()):
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
        return cache_directory() / f"{self.name}-{self.version}-{digest.hexdigest()[:12]}" / self.name

    @property
    def is_built(self) -> bool:
        return self.binary.is_file()


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("collector", "."),
        Backend("jaeger", "github.com/jaegertracing/jaeger/cmd/jaeger"),
        Backend("prometheus", "github.com/prometheus/prometheus/cmd/prometheus", tags="remove_all_sd"),
        Backend("compose", "github.com/docker/compose/v5/cmd"),
    )
}


def cache_directory() -> Path:
    """Where builds are kept: AGENTBUS_BACKENDS_DIR, else the user's cache."""
    return Path(os.environ.get("AGENTBUS_BACKENDS_DIR") or "~/.cache/otel-agentbus/backends").expanduser()


def build(backend: Backend) -> None:
    """Builds what is not there yet. Of several processes that want the same, one builds and the others wait for it."""
    label = f"{backend.name} {backend.version}"
    with _lock(backend.binary.parent, label):
        if backend.is_built:
            print(f"{label}: ready in {backend.binary.parent}")
            return
        print(f"{label}: building (minutes, the first time)", flush=True)
        started = time.monotonic()
        _log(backend).unlink(missing_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_directory(), prefix="building-") as scratch:
            built = _compile(backend, Path(scratch))
            backend.binary.parent.mkdir(exist_ok=True)
            built.replace(backend.binary)  # atomic: who sees the file sees all of it
        print(f"{label}: built in {time.monotonic() - started:.0f} s, kept in {backend.binary.parent}", flush=True)


@contextlib.contextmanager
def _lock(directory: Path, label: str) -> Iterator[None]:
    """Holds the right to build into this directory; released by the system, whatever becomes of this process."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with directory.with_name(f".{directory.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{label}: another process is building it, waiting", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compile(backend: Backend, scratch: Path) -> Path:
    """Compiles one backend inside a scratch directory and returns the binary."""
    sources = scratch / "sources"
    shutil.copytree(backend.manifest, sources)
    if backend.name == "collector":
        sources = _collector_sources(backend, sources)
    built = scratch / backend.name
    tags = (f"-tags={backend.tags}",) if backend.tags else ()
    _go(backend, [*GO_BUILD, *tags, "-o", str(built), backend.package], sources)
    return built


def _collector_sources(backend: Backend, directory: Path) -> Path:
    """Has the Collector's builder write a main package for the manifest, and puts our lock beside it.

    The builder would rather resolve and compile by itself, but its `go mod tidy` also wants what only the tests of the
    components need, and resolves anew every time; the lock makes each build the same.
    """
    _go(backend, ["install", f"{COLLECTOR_BUILDER}@v{backend.version}"], directory, GOBIN=str(directory / "bin"))
    command = [str(directory / "bin" / "builder"), "--config=manifest.yaml", "--skip-compilation", "--skip-get-modules"]
    _run(backend, command, directory)
    for lock in ("go.mod", "go.sum"):
        shutil.copy(directory / lock, directory / "out" / lock)
    return directory / "out"


def _go(backend: Backend, arguments: Sequence[str], directory: Path, **environment: str) -> None:
    go = shutil.which(os.environ.get("GO") or "go")
    if go is None:
        raise BuildError("go is not on the PATH (nor in GO): the backends are built with Go 1.26 or newer")
    _run(backend, [go, *arguments], directory, GOFLAGS="", GOWORK="off", **environment)


def _run(backend: Backend, command: Sequence[str], directory: Path, **environment: str) -> None:
    """Runs one step of a build; its output goes to a log, of which a failure shows the end."""
    log = _log(backend)
    with log.open("ab") as output:
        result = subprocess.run(
            command, cwd=directory, env={**os.environ, **environment}, stdout=output, stderr=output, check=False
        )
    if result.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise BuildError(f"`{' '.join(command)}` failed, the end of {log}:\n{tail}")


def _log(backend: Backend) -> Path:
    return cache_directory() / f"{backend.binary.parent.name}.log"


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the servers that the integration tests talk to.")
    parser.add_argument("names", nargs="*", metavar="backend", help=f"which: {', '.join(BACKENDS)} (default: all)")
    parser.add_argument("--list", action="store_true", help="show what is built and where, build nothing")
    options = parser.parse_args()
    if unknown := set(options.names) - set(BACKENDS):
        parser.error(f"no such backend: {', '.join(sorted(unknown))}")
    wanted = [BACKENDS[name] for name in options.names] or list(BACKENDS.values())
    if options.list:
        for backend in wanted:
            print(f"{backend.name} {backend.version}: {'built' if backend.is_built else 'missing'}, {backend.binary}")
        return 0
    os.nice(10)  # a long build on a shared machine: the others first
    try:
        for backend in wanted:
            build(backend)
    except BuildError as error:
        print(f"{backend.name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
