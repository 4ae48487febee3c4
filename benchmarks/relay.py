"""`python -m benchmarks.relay`: what the way through a broker costs, and how much a relay worker gets done.

It starts a Redis, an endpoint that takes everything, emitters and workers, all on this machine. CPU does not depend on
what else the machine does, as the clock on the wall does; what stands against what was measured in one run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

from otel_agentbus.feeding.feed import EVERY_S

from . import relay_backends, relay_open_runs
from .relay_house import SHARDS, Backlog, Cpu, House, NoRedis, housed, wait_for
from .relay_programs import EVENTS, p50_p99
from .table import Row, lines

#: How the same program runs whose emitting is compared: nothing leaves it; its own spans do.
BARE = {"OTEL_TRACES_EXPORTER": "none"}
#: How many entries are read at once, as a worker does.
AT_ONCE = 1_000


def bare_loop(house: House, name: str) -> Cpu:
    """What reading the same entries costs, and decoding their JSON, and nothing else."""
    cpu, began = time.process_time(), time.perf_counter()
    for number in range(SHARDS):
        last = "-"
        while found := house.client.xrange(f"{{{name}:{number}}}:events", last, "+", AT_ONCE):
            for _, fields in found:
                json.loads(fields[b"d"])
            last = f"({found[-1][0].decode()}"
    return Cpu(time.process_time() - cpu, 0.0, time.perf_counter() - began)


def worked_off(house: House, backlog: Backlog, workers: int) -> tuple[Cpu, Cpu]:
    """What so many workers need for a backlog, their start not counted, and what the bare loop does."""
    house.clear()
    backlog.write("aside")
    bare = bare_loop(house, "aside")
    house.hire(workers)
    before = house.cpu()
    backlog.appear()
    wait_for(lambda: not house.waiting())
    used = house.cpu() - before
    house.dismiss()
    return used, bare


def throughput(house: House, events: int, workers: Sequence[int], rounds: int) -> Iterator[Row]:
    """Workers against each other and the bare loop, in CPU and on the wall; what stands in Redis."""
    house.emit(-(-events // EVENTS)).line()
    memory = house.memory()
    backlog = Backlog(house)
    many = len(backlog)
    taken: dict[int, list[tuple[Cpu, Cpu]]] = {number: [] for number in workers}
    for number in [*workers] * rounds:  # they take turns, so that noise hits all alike
        taken[number].append(worked_off(house, backlog, number))

    def of(number: int, what: Callable[[Cpu], float], which: int = 0) -> float:
        return median(what(each[which]) for each in taken[number])

    def us(number: int, what: Callable[[Cpu], float], which: int = 0) -> float:
        return of(number, what, which) / many * 1e6

    first = workers[0]
    against, bare = "reading, json.loads", us(first, lambda cpu: cpu.workers, 1)
    for number in workers:
        yield Row(f"CPU of {_workers(number)}, an event", us(number, lambda cpu: cpu.workers), against, bare, unit="us")
        against, bare = _workers(first), us(first, lambda cpu: cpu.workers)
    own = us(first, lambda cpu: cpu.workers)
    redis = us(first, lambda cpu: cpu.redis)
    yield Row("CPU of Redis, an event read", redis, _workers(first), own, unit="us")
    yield Row("memory of Redis, an event", memory / many, "its record", sum(map(len, backlog.data)) / many, unit="B")
    against, bare = "reading, json.loads", many / of(first, lambda cpu: cpu.wall, 1)
    for number in workers:
        done = many / of(number, lambda cpu: cpu.wall)
        yield Row(_workers(number), done, against, bare, unit="events/s")
        against, bare = _workers(first), many / of(first, lambda cpu: cpu.wall)


def _workers(number: int) -> str:
    return f"{number} worker{'s' if number > 1 else ''}"


def phases(house: House, events: int) -> Iterator[Row]:
    """Where a worker's CPU goes."""
    house.clear()
    house.emit(-(-events // EVENTS)).line()
    told = house.phases()
    each = {phase: seconds / told["events"] * 1e6 for phase, seconds in told["cpu"].items()}
    for phase, us in each.items():
        yield Row(f"CPU of a worker, an event: {phase}", us, "all of it", sum(each.values()), unit="us")


def emitters(house: House, events: int, rounds: int) -> Iterator[Row]:
    """What an event costs its emitter: with a broker, and exporting its spans itself."""
    ways = {"bare": BARE, "broker": None, "itself": {"OTEL_EXPORTER_OTLP_ENDPOINT": house.endpoint}}
    taken: dict[str, list[float]] = {name: [] for name in (*ways, "redis")}
    for _ in range(rounds):
        for name, variables in ways.items():
            house.clear()
            emitter, before = house.emit(-(-events // EVENTS), variables=variables), house.cpu()
            told = emitter.line()
            taken[name].append(told["cpu"] / told["events"] * 1e6)
            if variables is None:
                taken["redis"].append((house.cpu() - before).redis / told["events"] * 1e6)
    us = {name: median(each) for name, each in taken.items()}
    yield Row("CPU of an emitter, an event: with a broker", us["broker"], "nothing leaves it", us["bare"], unit="us")
    yield Row("CPU of Redis, an event written", us["redis"], "the emitter's", us["broker"], unit="us")
    yield Row("CPU of an emitter, an event: spans by OTLP", us["itself"], "nothing leaves it", us["bare"], unit="us")


def lag(house: House, rate: int, seconds: float) -> Iterator[Row]:
    """How late spans come at a steady rate, with one worker, and how many events wait meanwhile."""
    house.clear()
    house.hire(1)
    emitting = house.emit(max(round(rate * seconds / EVENTS), 2), rate)
    house.begin()
    waiting: list[float] = []
    while emitting.popen.poll() is None:
        waiting.append(house.waiting())
        time.sleep(0.02)
    emitting.line()
    wait_for(lambda: not house.waiting())
    p50, p99 = p50_p99(house.late_ms())
    house.dismiss()
    wait_ms = EVERY_S * 1000
    yield Row(f"emit to export at {rate:,} events/s, p50", p50, "wait for a batch", wait_ms, unit="ms")
    yield Row(f"emit to export at {rate:,} events/s, p99", p99, "wait for a batch", wait_ms, unit="ms")
    yield Row(f"events in the broker at {rate:,} events/s, p99", p50_p99(waiting)[1], "a second's", rate, unit="events")


def rows(house: House, given: argparse.Namespace) -> Iterator[Row]:
    """All of it, as it is asked for."""
    yield from throughput(house, given.events, given.workers, given.rounds)
    yield from phases(house, given.events)
    yield from emitters(house, given.events, given.rounds)
    for rate in given.rates:
        yield from lag(house, rate, given.seconds)
    if not given.no_backends:
        with tempfile.TemporaryDirectory() as directory:
            yield from relay_backends.rows(house, given.events, Path(directory))
    if given.open_runs:
        yield from relay_open_runs.rows(house, given.open_runs)


def _numbers(text: str) -> list[int]:
    found = [int(part) for part in text.split(",") if part]
    if any(number < 1 for number in found):
        raise ValueError(text)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; 2 where there is no Redis."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay", description=__doc__)
    parser.add_argument("--events", type=int, default=36_000, help="events of a backlog (%(default)s)")
    parser.add_argument("--workers", type=_numbers, default=[1, 2, 4], help="how many at once (1,2,4)")
    parser.add_argument("--rates", type=_numbers, default=[500, 1500], help="events a second, steadily (500,1500)")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each of the rates (%(default)s)")
    parser.add_argument("--open-runs", type=int, default=100_000, help="the most open runs; 0: none (%(default)s)")
    parser.add_argument("--no-backends", action="store_true", help="leave out the Collector and Jaeger")
    parser.add_argument("--lease", type=float, default=5.0, help="of the workers, in seconds (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often; the median counts (%(default)s)")
    given = parser.parse_args(arguments)
    try:
        with housed(given.lease) as house:
            redis = house.client.info("server")["redis_version"]
            print(f"Python {platform.python_version()}, Redis {redis}, {_load()}")
            found = list(rows(house, given))
    except NoRedis as error:
        print(error, file=sys.stderr)
        return 2
    print(*lines(found, 1.0), sep="\n")
    print(f"Then: {_load()}")
    return 0


def _load() -> str:
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    sys.exit(main())
