"""Workers of the relay, one of which is killed at random every now and then, and what that does to the shards."""

from __future__ import annotations

import random
import signal
import time
from collections import deque
from pathlib import Path
from typing import Any

import redis

from otel_agentbus.journal.redis import RedisJournal
from otel_agentbus.testing import wait_until

from .test_relay import Running

WORKERS, SHARDS = 3, 8
LEASE_S = 2.0
#: Of so many events of each shard, those that were seen last, it is known what they were.
SEEN = 30
#: Seconds from one kill to the next.
GAP_S = (1.0, 3.0)
#: Seconds until a worker must have begun or ended.
PATIENCE_S = 60.0


class Fleet:
    """The workers: one at random is killed now and then, and replaced; and who has which shard is watched.

    To whom takes over is told again some of what its predecessor had read: as where an emitter gets no answer, and
    writes the same once more.
    """

    def __init__(self, url: str, directory: Path, variables: dict[str, str], *options: str, longest_s: float) -> None:
        self._journal = RedisJournal(url)
        self._client: Any = redis.Redis.from_url(url)
        self._seen: dict[int, deque[Any]] = {shard: deque(maxlen=SEEN) for shard in range(SHARDS)}
        self._directory, self._variables = directory, variables
        self._arguments = ("otel_agentbus", "relay", "--from", url, "--lease", str(LEASE_S), *options)
        self._dice = random.Random(11)
        self._orphaned: dict[int, float] = {}
        self._until = time.monotonic() + longest_s
        self._kill_at = time.monotonic() + GAP_S[1]
        self.workers = [self._start() for _ in range(WORKERS)]
        self.dead: list[Running] = []
        #: How long each shard of a killed worker had no other one, in seconds, where nothing else was wrong.
        self.orphaned_s: list[float] = []
        #: How many events were told again.
        self.told_again = 0

    @property
    def kills(self) -> int:
        return len(self.dead)

    def step(self) -> None:
        """Look, and kill if it is time to."""
        assert time.monotonic() < self._until, f"{self.lag()} events wait still"
        self.watch()
        if time.monotonic() >= self._kill_at and (ready := self._ready()):
            self.kill(self._dice.choice(ready))
            self._kill_at = time.monotonic() + self._dice.uniform(*GAP_S)
        time.sleep(0.1)

    def watch(self) -> None:
        """See what waits, and which shards have found another worker."""
        for shard, seen in self._seen.items():
            seen.extend(fields for _, fields in self._client.xrange(stream_of(shard), count=SEEN))
        dead = {str(worker.popen.pid) for worker in self.dead}
        for shard, since in list(self._orphaned.items()):
            owner = self._owner(shard)
            if owner is not None and owner not in dead:
                self.orphaned_s.append(time.monotonic() - since)
                del self._orphaned[shard]
                self._tell_again(shard)

    def kill(self, number: int) -> None:
        """Kill a worker, and start another one."""
        victim = self.workers[number]
        assert victim.popen.poll() is None, victim.err
        owners = {shard: self._owner(shard) for shard in range(SHARDS)}
        victim.popen.kill()
        victim.popen.communicate()
        self.dead.append(victim)
        now = time.monotonic()
        for shard, owner in owners.items():
            if owner == str(victim.popen.pid):
                self._orphaned.setdefault(shard, now)
        self.workers[number] = self._start()

    def kill_all(self) -> None:
        """Kill every worker: nothing is in anybody's memory any more."""
        for number in range(WORKERS):
            self.kill(number)
        self.forget()

    def forget(self) -> None:
        """What has no worker now has none for another reason than a kill."""
        self._orphaned.clear()

    def lag(self) -> int:
        """How many events wait."""
        return sum(self._journal.shard(number).lag() for number in range(SHARDS))

    def end(self) -> list[int]:
        """Ask all to end, once they are at work; their exit codes."""
        assert wait_until(lambda: len(self._ready()) == WORKERS, PATIENCE_S)
        for worker in self.workers:
            worker.popen.send_signal(signal.SIGTERM)
        self._client.close()
        return [worker.wait() for worker in self.workers]

    def _tell_again(self, shard: int) -> None:
        seen = self._seen[shard]
        self.told_again += len(seen)
        while seen:
            self._client.xadd(stream_of(shard), seen.popleft())

    def _start(self) -> Running:
        return Running(self._directory, self._variables, *self._arguments)

    def _ready(self) -> list[int]:
        """Those that are at work."""
        heard = {name.split(":")[-2] for name in self._journal.workers(LEASE_S)}
        return [number for number, worker in enumerate(self.workers) if str(worker.popen.pid) in heard]

    def _owner(self, shard: int) -> str | None:
        """The process that has it."""
        owner = self._journal.shard(shard).owner()
        return None if owner is None else owner.split(":")[-2]


def stream_of(shard: int) -> str:
    """The key of a shard's events."""
    return f"{{agentbus:{shard}}}:events"
