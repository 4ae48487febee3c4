"""What the relay's benchmark stands on: a real Redis, an endpoint and workers as processes, a backlog, their CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from otel_agentbus.journal.redis import RedisJournal
from tests.integration.redis_server import Redis, installed

from . import relay_programs

SHARDS = 8
#: Seconds until whatever is waited for must have happened.
PATIENCE_S = 600.0


class NoRedis(Exception):
    """There is no Redis on this machine."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds of the workers and of Redis, and seconds of the clock on the wall."""

    workers: float
    redis: float
    wall: float

    def __sub__(self, other: Cpu) -> Cpu:
        return Cpu(self.workers - other.workers, self.redis - other.redis, self.wall - other.wall)


class Process:
    """A program of the benchmark; it ends with it."""

    def __init__(self, module: str, *arguments: str, **variables: str) -> None:
        inherited = {name: text for name, text in os.environ.items() if not name.startswith(("OTEL_", "AGENTBUS_"))}
        self._module = module
        self.popen = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=Path(__file__).parents[1],
            env={**inherited, "OTEL_METRICS_EXPORTER": "none", "OTEL_SERVICE_NAME": "benchmark", **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def line(self) -> Any:
        """The next line of JSON that it says."""
        assert self.popen.stdout is not None
        said = self.popen.stdout.readline()
        if not said:
            raise RuntimeError(f"{self._module} has ended with {self.popen.wait()} before it said anything")
        return json.loads(said)

    def cpu_s(self) -> float:
        """The CPU seconds that it has used."""
        return cpu_s(self.popen.pid)

    def rss(self) -> int:
        """The bytes that it has in memory."""
        return int(Path("/proc", str(self.popen.pid), "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def kill(self) -> None:
        """End it at once."""
        self.popen.kill()
        self.popen.wait()
        if self.popen.stdout is not None:
            self.popen.stdout.close()


def cpu_s(pid: int) -> float:
    """The CPU seconds of a process, its living threads together: to the nanosecond, as Linux says it."""
    threads = Path("/proc", str(pid), "task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


class House:
    """One Redis and one endpoint, and whatever was started besides them."""

    def __init__(self, redis: Redis, lease: float) -> None:
        from redis import Redis as Client

        self.url = redis.url
        self._lease = str(lease)
        self.client: Any = Client.from_url(redis.url)
        self._processes: list[Process] = []
        self._receiver = self.start(relay_programs.__name__, "receive")
        self.endpoint = f"http://127.0.0.1:{self._receiver.line()['port']}"
        self.workers: list[Process] = []

    # -- processes -----------------------------------------------------------------------------------------------------

    def start(self, module: str, *arguments: str, **variables: str) -> Process:
        """A process."""
        process = Process(module, *arguments, **variables)
        self._processes.append(process)
        return process

    def emit(self, runs: int, rate: float = 0.0, variables: Mapping[str, str] | None = None) -> Process:
        """Agents with so many runs, whose events go to the broker, unless the variables say something else; warm."""
        variables = {"AGENTBUS_BROKER": self.url} if variables is None else variables
        emitter = self.start(relay_programs.__name__, "emit", str(runs), str(rate), **variables)
        emitter.line()
        return emitter

    def phases(self) -> Any:
        """What a worker says, with a clock in it, that has worked off what there is."""
        return self.start(relay_programs.__name__, "phases", self.url, OTEL_EXPORTER_OTLP_ENDPOINT=self.endpoint).line()

    def hire(self, number: int, endpoint: str | None = None) -> None:
        """So many workers more, who have their fair share of the shards when this returns."""
        variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint or self.endpoint}
        for _ in range(number):
            arguments = ("relay", "--from", self.url, "--lease", self._lease)
            self.workers.append(self.start("otel_agentbus", *arguments, **variables))
        wait_for(lambda: self._is_shared(len(self.workers)))

    def _is_shared(self, number: int) -> bool:
        owners = self.owners()
        shares = [owners.count(owner) for owner in set(owners)]
        return None not in owners and len(shares) == number and max(shares) == -(-SHARDS // number)

    def owners(self) -> list[str | None]:
        """Who has each shard."""
        journal = self.journal()
        return [journal.shard(number).owner() for number in range(SHARDS)]

    def dismiss(self) -> None:
        """End the workers."""
        for worker in self.workers:
            worker.kill()
        self.workers.clear()

    def close(self) -> None:
        """End everything."""
        for process in self._processes:
            process.kill()
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- Redis ---------------------------------------------------------------------------------------------------------

    def journal(self, name: str = "agentbus") -> RedisJournal:
        """The broker as programs of ours see it."""
        return RedisJournal(self.url, name=name, shards=SHARDS, max_events=1 << 32)

    def waiting(self) -> int:
        """How many events are in the broker: what every group has acknowledged is gone."""
        with self.client.pipeline(transaction=False) as asked:
            for number in range(SHARDS):
                asked.xlen(f"{{agentbus:{number}}}:events")
            return sum(map(int, asked.execute()))

    def memory(self) -> int:
        """The bytes that Redis has of data, without what it needs itself."""
        return int(self.client.info("memory")["used_memory_dataset"])

    def clear(self) -> None:
        """Forget everything."""
        self.client.flushall()

    def cpu(self) -> Cpu:
        """What was used until now."""
        told = self.client.info("cpu")
        redis = float(told["used_cpu_user"]) + float(told["used_cpu_sys"])
        return Cpu(sum(worker.cpu_s() for worker in self.workers), redis, time.perf_counter())

    # -- the endpoint --------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Have it noted from now on when spans come."""
        self._ask("begin")

    def late_ms(self) -> list[float]:
        """How many milliseconds after its end each span has come since then."""
        found: list[float] = json.loads(self._ask("end"))
        return found

    def _ask(self, path: str) -> bytes:
        with urllib.request.urlopen(f"{self.endpoint}/{path}", timeout=30) as answer:
            said: bytes = answer.read()
        return said


class Backlog:
    """The entries of a broker, to be written again as often as they are to be worked off."""

    def __init__(self, house: House) -> None:
        self._house = house
        journal = house.journal()
        self._entries = [entry for number in range(SHARDS) for entry in _entries(house, number)]
        self._openings = {source: journal.openings(source) for source in {source for _, source, _ in self._entries}}
        self.data = [data for _, _, data in self._entries]

    def __len__(self) -> int:
        return len(self._entries)

    def write(self, name: str = "agentbus") -> None:
        """Write them into an empty broker, or aside under another name."""
        self._house.clear()
        keys, sources, datas = zip(*self._entries, strict=True)
        self._house.journal(name).append_many(datas, keys, sources)
        self._introduce()

    def _introduce(self) -> None:
        for source, opening in self._openings.items():
            self._house.journal().introduce(source, opening or b"")

    def appear(self) -> None:
        """Have what stands aside become the broker's streams, at once."""
        with self._house.client.pipeline() as asked:
            for number in range(SHARDS):
                if self._house.client.exists(f"{{aside:{number}}}:events"):
                    asked.rename(f"{{aside:{number}}}:events", f"{{agentbus:{number}}}:events")
            asked.execute()


def _entries(house: House, number: int) -> list[tuple[str, str, bytes]]:
    found = house.client.xrange(f"{{agentbus:{number}}}:events")
    return [(fields[b"k"].decode(), fields[b"s"].decode(), fields[b"d"]) for _, fields in found]


def wait_for(condition: Callable[[], bool], pause: float = 0.02) -> float:
    """The seconds until this holds."""
    began = time.perf_counter()
    while not condition():
        if time.perf_counter() - began > PATIENCE_S:
            raise TimeoutError(f"nothing has happened in {PATIENCE_S:.0f} s")
        time.sleep(pause)
    return time.perf_counter() - began


@contextmanager
def housed(lease: float) -> Iterator[House]:
    """A house, in which nothing is kept, and whose workers have leases of so many seconds.

    Raises:
        NoRedis: there is no Redis here.

    """
    binary = installed()
    if binary is None:
        raise NoRedis("redis-server is not installed: `make backends` does it.")
    with tempfile.TemporaryDirectory() as directory:
        redis = Redis(binary, Path(directory))
        redis.start()
        try:
            with House(redis, lease) as house:
                yield house
        finally:
            redis.stop()
