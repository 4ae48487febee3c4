"""Fixtures of the integration tests: real servers, one of each per session."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, NoReturn, TypeVar

import pytest

from .backends import Collector, Jaeger, Prometheus, Server, ServerFailed
from .build_backends import BACKENDS
from .redis_server import Redis, installed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

S = TypeVar("S", bound=Server)

START_ATTEMPTS = 3  # a free port may be taken by somebody else before the server has it


#: The files that take longest, begun first; those that keep a core busy apart from one another.
LONGEST = ("test_soak", "test_dashboards", "test_rq", "test_celery", "test_killed", "test_relay_killed", "test_burst")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the longest first; within a file nothing changes."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def pytest_itemcollected(item: pytest.Item) -> None:
    """Marks every test in this directory."""
    item.add_marker(pytest.mark.integration)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    for server in Server.running:
        server.mark_log()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Shows with a failure what the servers said during the test."""
    report = yield
    if report.failed:
        logs = ((server.log, server.log_since_mark()) for server in Server.running)
        report.sections += [(f"{log} during the test", said) for log, said in logs if said]
    return report


@pytest.fixture(scope="session")
def jaeger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    """Jaeger: to be sent to directly or through the Collector, and to be read from."""
    binary = required("jaeger")
    yield from _lifetime(lambda: Jaeger(binary, tmp_path_factory.mktemp("jaeger")))


@pytest.fixture(scope="session")
def collector(tmp_path_factory: pytest.TempPathFactory, jaeger: Jaeger) -> Iterator[Collector]:
    """The Collector with the shipped configuration, in front of Jaeger."""
    binary = required("collector")
    yield from _lifetime(lambda: Collector(binary, tmp_path_factory.mktemp("collector"), jaeger))


@pytest.fixture(scope="session")
def prometheus(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Prometheus]:
    """Prometheus with the shipped configuration, scraping the Collector."""
    binary = required("prometheus")
    yield from _lifetime(lambda: Prometheus(binary, tmp_path_factory.mktemp("prometheus"), collector))


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """Redis, in memory."""
    binary = redis_binary()
    yield from _lifetime(lambda: Redis(binary, tmp_path_factory.mktemp("redis")))


@pytest.fixture
def redis_url(redis_server: Redis) -> str:
    """The URL of a Redis with nothing in it."""
    import redis

    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def compose() -> list[str]:
    """The command that is Docker Compose here: docker's plugin, else the one that was built."""
    if docker := shutil.which("docker"):
        plugin = [docker, "compose"]
        if subprocess.run([*plugin, "version"], capture_output=True, check=False).returncode == 0:
            return plugin
    return [str(required("compose"))]


def required(name: str) -> Path:
    """The path of a built backend; without it the test is skipped, and fails where backends are required."""
    backend = BACKENDS[name]
    if not backend.is_built:
        missing(f"{name} {backend.version} is not built: `make backends` does it, once and for all.")
    return backend.binary


def redis_binary() -> Path:
    """The path of Redis; without it as with `required`."""
    return installed() or missing("redis-server is not installed: `make backends` does it.")


def missing(message: str) -> NoReturn:
    """Fail where backends are required; else skip."""
    if os.environ.get("AGENTBUS_REQUIRE_BACKENDS") == "1":
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def _lifetime(make: Callable[[], S]) -> Iterator[S]:
    """Starts a server, on other ports if one was taken meanwhile, and ends it with the session."""
    for attempt in range(1, START_ATTEMPTS + 1):
        server = make()
        try:
            server.start()
        except ServerFailed:
            if attempt == START_ATTEMPTS or "address already in use" not in server.log_tail():
                raise
        else:
            break
    try:
        yield server
    finally:
        server.stop()
