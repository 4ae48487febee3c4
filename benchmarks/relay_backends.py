"""What the spans of a relay cost those behind it: the real Collector with the shipped configuration, and Jaeger."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from tests.integration.backends import Collector, Jaeger, Server
from tests.integration.build_backends import BACKENDS

from .relay_house import Backlog, House, cpu_s, wait_for
from .relay_programs import EVENTS
from .table import Row


def rows(house: House, events: int, directory: Path) -> Iterator[Row]:
    """The CPU of both for a span, against the worker's; nothing where they are not built."""
    if not (BACKENDS["collector"].is_built and BACKENDS["jaeger"].is_built):
        return
    house.clear()
    house.emit(-(-events // EVENTS)).line()
    backlog = Backlog(house)
    jaeger = Jaeger(BACKENDS["jaeger"].binary, directory)
    jaeger.start()
    try:
        collector = Collector(BACKENDS["collector"].binary, directory, jaeger)
        collector.additions.clear()  # the tests' own file
        collector.start()
        try:
            yield from _measured(house, backlog, collector, jaeger)
        finally:
            collector.stop()
    finally:
        jaeger.stop()


def _measured(house: House, backlog: Backlog, collector: Collector, jaeger: Jaeger) -> Iterator[Row]:
    backlog.write("aside")
    house.hire(1, collector.otlp_http_endpoint)
    before, behind = house.cpu(), [_cpu_s(server) for server in (collector, jaeger)]
    backlog.appear()
    wait_for(lambda: not house.waiting())
    wait_for(lambda: not _is_busy(collector, jaeger))
    spans = len(backlog) / 2
    own = (house.cpu() - before).workers / spans * 1e6
    for name, server, used in zip(("the Collector", "Jaeger"), (collector, jaeger), behind, strict=True):
        yield Row(f"CPU of {name}, a span", (_cpu_s(server) - used) / spans * 1e6, "the worker's", own, unit="us")
    house.dismiss()


def _is_busy(*servers: Server) -> bool:
    """Whether they have used more than a twentieth of a core in the last second."""
    before = sum(map(_cpu_s, servers))
    time.sleep(1.0)
    return sum(map(_cpu_s, servers)) - before > 0.05


def _cpu_s(server: Server) -> float:
    """The CPU seconds of a server, which is its leash's child."""
    assert server._process is not None
    leash = server._process.pid
    children = Path(f"/proc/{leash}/task/{leash}/children").read_text().split()
    return sum(cpu_s(int(child)) for child in children)
